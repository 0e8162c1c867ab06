#include "lace/evaluate.h"

#include <cmath>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "train/batch.h"
#include "train/folder_test.h"
#include "train/interval.h"
#include "train/small_recipe.h"

namespace lace {
namespace {

constexpr int64_t kWindow = 64;

class EvaluateTest : public testing::Test {
 protected:
  EvaluateTest() : model_(small_recipe().model) {
    const torch::NoGradGuard no_grad;  // W_out starts at 0: every byte would score alike
    torch::manual_seed(5);
    for (const NamedParameter& p : model_.parameters())
      if (p.name == "out.weight") p.tensor.normal_(0, 0.5);
  }

  // Nats of the bytes [from, end), read in a window that begins at `begin`.
  double nats(const ByteStream& stream, int64_t begin, int64_t from, int64_t end) const {
    const at::Tensor window = train::read_windows(stream, {begin}, end - begin);
    return model_.nats(window)[0].slice(0, from - begin).sum().item<double>();
  }

  // A window of the protocol, worked out a window at a time.
  struct Plain {
    int64_t begin, bytes;
    double nats;
  };
  // All of a piece. `part`: its first window is scored as the others are.
  std::vector<Plain> plain(const DataSplit& split, int64_t piece, int64_t context,
                           bool part = false) const {
    const int64_t first = split.piece_begin(piece), last = split.piece_end(piece);
    std::vector<Plain> windows;
    for (int64_t begin = first;; begin += kWindow - context) {
      const int64_t end = std::min(begin + kWindow, last);
      const int64_t from = begin == first && !part ? begin : begin + context;
      if (from < end) windows.push_back({begin, end - from, nats(split.bytes, begin, from, end)});
      if (end == last) return windows;
    }
  }

  static double bits(const std::vector<Plain>& windows) {
    double sum = 0, bytes = 0;
    for (const Plain& window : windows) {
      sum += window.nats;
      bytes += static_cast<double>(window.bytes);
    }
    return sum / bytes / std::log(2);
  }

  static void expect_same(const EvalResult& result, const std::vector<Plain>& expected) {
    ASSERT_EQ(result.windows.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(result.windows[i].begin, expected[i].begin);
      EXPECT_EQ(result.windows[i].bytes, expected[i].bytes);
      EXPECT_NEAR(result.windows[i].nats, expected[i].nats, 1e-3);
    }
    EXPECT_NEAR(result.bits_per_byte, bits(expected), 1e-5);
  }

  SparseTransformer model_;
};

DataSplit three_pieces() {
  DataSplit split;
  const ByteStream text = small_text(250);
  split.append_piece(text.slice(0, 150));
  split.append_piece(text.slice(150, 180));
  split.append_piece(text.slice(180, 250));
  return split;
}

TEST_F(EvaluateTest, ScoresEachByteOnceWithItsContext) {
  constexpr int64_t kContext = 40, kAdvance = kWindow - kContext;
  for (const int64_t size : {50, 64, 65, 150, 160}) {
    const ByteStream stream = small_text(static_cast<size_t>(size));
    double expected = 0;
    for (int64_t i = 0; i < size; ++i) {
      const int64_t window = i < kWindow ? 0 : (i - kWindow) / kAdvance + 1;
      expected += nats(stream, window * kAdvance, i, i + 1);
    }
    int64_t last = 0;
    const EvalResult result = evaluate(model_, stream, {.min_context = kContext, .batch = 3}, {},
                                       [&](int64_t done, int64_t total) { last = total - done; });
    EXPECT_EQ(result.bytes, size);
    EXPECT_EQ(last, 0);
    EXPECT_NEAR(result.bits_per_byte, expected / std::log(2) / static_cast<double>(size), 1e-4)
        << size;
  }
}

TEST_F(EvaluateTest, NoWindowPassesTheEndOfAPiece) {
  const DataSplit split = three_pieces();
  const EvalResult result = evaluate(model_, split, {.min_context = 40, .batch = 4});
  std::vector<Plain> expected;
  const std::vector<PieceScore> pieces = by_piece(result);
  ASSERT_EQ(pieces.size(), 3u);
  for (int64_t i = 0; i < 3; ++i) {
    const std::vector<Plain> own = plain(split, i, 40);
    const PieceScore& piece = pieces[static_cast<size_t>(i)];
    EXPECT_EQ(piece.piece, i);
    EXPECT_EQ(piece.bytes, split.piece_end(i) - split.piece_begin(i));
    EXPECT_EQ(piece.windows, static_cast<int64_t>(own.size()));
    EXPECT_NEAR(piece.bits_per_byte.mean, bits(own), 1e-5);
    EXPECT_EQ(piece.bits_per_byte.half_width.has_value(), own.size() > 1);
    expected.insert(expected.end(), own.begin(), own.end());
  }
  EXPECT_EQ(result.bytes, 250);
  EXPECT_EQ(result.available_windows, static_cast<int64_t>(expected.size()));
  expect_same(result, expected);
}

// What stands in the header, of three windows whose bits are worked out one by one.
TEST_F(EvaluateTest, TheIntervalIsThatOfWeightedWindows) {
  const DataSplit split(small_text(110));  // windows of 64, 24 and 22 scored bytes
  const std::vector<Plain> windows = plain(split, 0, 40);
  ASSERT_EQ(windows.size(), 3u);
  const double mean = bits(windows);
  double squares = 0;
  for (const Plain& window : windows) {
    const auto bytes = static_cast<double>(window.bytes);
    squares += std::pow(window.nats / std::log(2) - bytes * mean, 2);
  }
  const EvalResult result = evaluate(model_, split, {.min_context = 40, .batch = 2});
  ASSERT_TRUE(result.half_width.has_value());
  EXPECT_NEAR(*result.half_width, 4.302653 * std::sqrt(3.0 / 2 * squares) / 110, 1e-4);
  EXPECT_FALSE(evaluate(model_, small_text(60), {}).half_width.has_value());
}

TEST_F(EvaluateTest, AFewWindowsAreSpreadOverThoseWithContext) {
  const DataSplit split = three_pieces();  // the second has no byte with 40 before it
  std::vector<Plain> all;
  for (int64_t i = 0; i < 3; ++i) {
    const std::vector<Plain> own = plain(split, i, 40, true);
    all.insert(all.end(), own.begin(), own.end());
  }
  ASSERT_EQ(all.size(), 7u);
  for (const int64_t most : {1, 3, 7}) {
    std::vector<Plain> expected;
    for (int64_t i = 0; i < most; ++i) expected.push_back(all[static_cast<size_t>(i * 7 / most)]);
    const EvalResult result =
        evaluate(model_, split, {.min_context = 40, .batch = 2}, {.most_windows = most});
    EXPECT_EQ(result.available_windows, 8);
    expect_same(result, expected);
  }
  EXPECT_EQ(evaluate(model_, split, {.min_context = 40}, {.most_windows = 8}).bytes, 250);
}

TEST_F(EvaluateTest, RecordsAreScoredWhole) {
  const ByteStream stream = small_text(5 * kWindow);
  double expected = 0;
  for (int64_t i = 0; i < 5; ++i)
    expected += nats(stream, i * kWindow, i * kWindow, (i + 1) * kWindow);
  const EvalResult result =
      evaluate(model_, stream, {.min_context = 0, .batch = 2}, {.record_bytes = kWindow});
  EXPECT_EQ(result.windows.size(), 5u);
  EXPECT_NEAR(result.bits_per_byte, expected / std::log(2) / (5 * kWindow), 1e-5);
}

TEST_F(EvaluateTest, ASweepIsTheEvaluationsAtThePapersContexts) {
  EXPECT_EQ(sweep_contexts(12288),
            (std::vector<int64_t>{6144, 9216, 10752, 11904, 12096, 12160}));  // Table 3
  EXPECT_EQ(sweep_contexts(kWindow), (std::vector<int64_t>{32, 48, 56, 62, 63}));
  EXPECT_EQ(sweep_contexts(1), (std::vector<int64_t>{0}));
  const DataSplit split = three_pieces();
  int64_t last = 0, before = 0;
  const std::vector<SweepRow> rows =
      sweep(model_, split, {.min_context = 7, .batch = 5}, {}, [&](int64_t done, int64_t total) {
        EXPECT_GT(done, before);
        before = done;
        last = total;
      });
  EXPECT_EQ(before, last);
  ASSERT_EQ(rows.size(), 5u);
  for (size_t row = 0; row < rows.size(); ++row) {
    EXPECT_EQ(rows[row].min_context, sweep_contexts(kWindow)[row]);
    std::vector<Plain> expected;
    for (int64_t i = 0; i < 3; ++i) {
      const std::vector<Plain> own = plain(split, i, rows[row].min_context);
      expected.insert(expected.end(), own.begin(), own.end());
    }
    EXPECT_EQ(rows[row].result.bytes, 250);
    expect_same(rows[row].result, expected);
  }
}

TEST_F(EvaluateTest, BatchesDoNotMatter) {
  const ByteStream stream = small_text(500);
  const double one = evaluate(model_, stream, {.min_context = 0, .batch = 1}).bits_per_byte;
  const double many = evaluate(model_, stream, {.min_context = 0, .batch = 5}).bits_per_byte;
  EXPECT_NEAR(one, many, 1e-5);
}

TEST_F(EvaluateTest, RefusesWhatMakesNoSense) {
  const auto error = [&](const ByteStream& stream, const EvalConfig& config,
                         const EvalExtent& extent = {}) {
    return error_of([&] { evaluate(model_, stream, config, extent); });
  };
  EXPECT_HAS(error(ByteStream(), {}), "no bytes to score");
  EXPECT_HAS(error(small_text(9), {.min_context = 64}), "min_context must be in [0, 64), got 64");
  EXPECT_HAS(error(small_text(9), {.batch = 0}), "batch must be above 0, got 0");
  EXPECT_HAS(error(small_text(9), {}, {.most_windows = -1}), "windows must be at least 0, got -1");
  EXPECT_HAS(error(small_text(128), {.min_context = 1}, {.record_bytes = 64}),
             "min_context must be 0 where windows are records, got 1");
  EXPECT_HAS(error(small_text(128), {}, {.record_bytes = 32}), "seq_len (64) bytes, got 32");
  EXPECT_HAS(error(small_text(130), {}, {.record_bytes = 64}), "whole records of 64 bytes");
  DataSplit split;
  split.append_piece(small_text(20));
  split.append_piece(small_text(30));
  EXPECT_HAS(error_of([&] { evaluate(model_, split, {.min_context = 40}, {.most_windows = 1}); }),
             "longer than min_context (40)");
  EXPECT_HAS(error_of([&] { sweep(model_, small_text(128), {}, {.record_bytes = 64}); }),
             "got records of 64 bytes");
}

}  // namespace
}  // namespace lace
