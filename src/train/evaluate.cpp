#include "lace/evaluate.h"

#include <algorithm>
#include <chrono>
#include <numbers>
#include <span>

#include <ATen/ATen.h>

#include "lace/model.h"
#include "lace/recipe.h"

#include "train/batch.h"
#include "train/interval.h"

namespace lace {
namespace {

struct Window {
  int64_t piece, begin, length;
  int64_t skip;  // bytes at its beginning that are not scored
};

// The windows of an evaluation, by number.
class WindowList {
 public:
  WindowList(const DataSplit& split, int64_t seq_len, int64_t min_context, int64_t most)
      : split_(split), seq_len_(seq_len), min_context_(min_context) {
    for (int64_t i = 0; i < split.pieces(); ++i) available_ += windows_of(i, true);
    whole_ = most == 0 || available_ <= most;
    if (!whole_) {
      for (int64_t i = 0; i < split.pieces(); ++i) choices_ += windows_of(i, false);
    }
    count_ = whole_ ? available_ : std::min(choices_, most);
  }

  int64_t available() const { return available_; }
  int64_t count() const { return count_; }

  // The next of count() windows.
  Window next() {
    const int64_t number =
        whole_ ? taken_ : static_cast<int64_t>(static_cast<__int128>(taken_) * choices_ / count_);
    ++taken_;
    while (number >= before_ + windows_of(piece_, whole_)) before_ += windows_of(piece_++, whole_);
    const int64_t index = number - before_, advance = seq_len_ - min_context_;
    const int64_t begin = split_.piece_begin(piece_) + index * advance;
    return {.piece = piece_,
            .begin = begin,
            .length = std::min(seq_len_, split_.piece_end(piece_) - begin),
            .skip = whole_ && index == 0 ? 0 : min_context_};
  }

 private:
  // `first_whole`: also of a first window that ends before min_context.
  int64_t windows_of(int64_t piece, bool first_whole) const {
    const int64_t size = split_.piece_end(piece) - split_.piece_begin(piece);
    const int64_t advance = seq_len_ - min_context_;
    if (size <= seq_len_) return size > (first_whole ? 0 : min_context_) ? 1 : 0;
    return 1 + (size - seq_len_ + advance - 1) / advance;
  }

  const DataSplit& split_;
  int64_t seq_len_, min_context_;
  bool whole_ = true;
  int64_t available_ = 0, choices_ = 0, count_ = 0;
  int64_t taken_ = 0, piece_ = 0, before_ = 0;  // windows of the pieces before this one
};

void check(const DataSplit& split, int64_t seq_len, const EvalConfig& config,
           const EvalExtent& extent) {
  LACE_CHECK(split.size() > 0, "[evaluate] there are no bytes to score");
  LACE_CHECK(0 <= config.min_context && config.min_context < seq_len,
             "[evaluate] min_context must be in [0, ", seq_len, "), got ", config.min_context);
  LACE_CHECK(config.batch > 0, "[evaluate] batch must be above 0, got ", config.batch);
  LACE_CHECK(extent.most_windows >= 0, "[evaluate] windows must be at least 0, got ",
             extent.most_windows);
  if (extent.record_bytes == 0) return;
  LACE_CHECK(extent.record_bytes == seq_len, "[evaluate] records must be of seq_len (", seq_len,
             ") bytes, got ", extent.record_bytes);
  LACE_CHECK(config.min_context == 0,
             "[evaluate] min_context must be 0 where windows are records, got ",
             config.min_context);
  LACE_CHECK(split.size() % seq_len == 0, "[evaluate] the split must be whole records of ", seq_len,
             " bytes, got ", split.size(), " bytes");
}

double bits(double nats, int64_t bytes) {
  return nats / static_cast<double>(bytes) / std::numbers::ln2;
}

Estimate estimate(std::span<const WindowScore> windows) {
  std::vector<double> values, weights;
  for (const WindowScore& window : windows) {
    values.push_back(bits(window.nats, window.bytes));
    weights.push_back(static_cast<double>(window.bytes));
  }
  return train::weighted_mean(values, weights);
}

void score(const SparseTransformer& model, const DataSplit& split,
           const std::vector<Window>& windows, std::vector<WindowScore>& scores) {
  std::vector<int64_t> begins;
  for (const Window& window : windows) begins.push_back(window.begin);
  const int64_t length = windows.front().length;
  const at::Tensor nats =
      model.nats(train::read_windows(split.bytes, begins, length, model.device()))
          .cpu()
          .to(at::kDouble);
  for (size_t i = 0; i < windows.size(); ++i) {
    const auto& [piece, begin, same_length, skip] = windows[i];
    const at::Tensor scored = nats[static_cast<int64_t>(i)].narrow(0, skip, length - skip);
    scores.push_back({begin, piece, length - skip, scored.sum().item<double>()});
  }
}

}  // namespace

EvalResult evaluate(const SparseTransformer& model, const DataSplit& split,
                    const EvalConfig& config, const EvalExtent& extent,
                    const std::function<void(int64_t, int64_t)>& on_window) {
  const int64_t seq_len = model.config().seq_len;
  check(split, seq_len, config, extent);
  const auto start = std::chrono::steady_clock::now();
  WindowList list(split, seq_len, config.min_context, extent.most_windows);
  LACE_CHECK(list.count() > 0, "[evaluate] a piece must be longer than min_context (",
             config.min_context, ") to be scored in part, the longest of ", split.pieces(),
             " is not: score all windows");
  EvalResult result;
  result.available_windows = list.available();
  std::vector<Window> batch;  // of one length
  const auto finish_batch = [&] {
    score(model, split, batch, result.windows);
    batch.clear();
    if (on_window) on_window(static_cast<int64_t>(result.windows.size()), list.count());
  };
  for (int64_t i = 0; i < list.count(); ++i) {
    const Window window = list.next();
    const bool full = static_cast<int64_t>(batch.size()) == config.batch;
    if (!batch.empty() && (full || batch.front().length != window.length)) finish_batch();
    batch.push_back(window);
  }
  finish_batch();
  double nats = 0;
  for (const WindowScore& window : result.windows) {
    result.bytes += window.bytes;
    nats += window.nats;
  }
  result.bits_per_byte = bits(nats, result.bytes);
  result.half_width = estimate(result.windows).half_width;
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  result.elapsed_s = elapsed.count();
  return result;
}

std::vector<PieceScore> by_piece(const EvalResult& result) {
  std::vector<PieceScore> pieces;
  const std::span<const WindowScore> all = result.windows;
  for (size_t first = 0; first < all.size();) {
    size_t end = first;
    int64_t bytes = 0;
    while (end < all.size() && all[end].piece == all[first].piece) bytes += all[end++].bytes;
    const auto own = all.subspan(first, end - first);
    pieces.push_back({all[first].piece, bytes, static_cast<int64_t>(own.size()), estimate(own)});
    first = end;
  }
  return pieces;
}

std::vector<int64_t> sweep_contexts(int64_t seq_len) {
  std::vector<int64_t> contexts;
  for (const int64_t part : {2, 4, 8, 32, 64, 96}) {
    const int64_t scored = std::max<int64_t>(1, (seq_len + part / 2) / part);
    const int64_t context = seq_len - scored;
    if (contexts.empty() || contexts.back() < context) contexts.push_back(context);
  }
  return contexts;
}

std::vector<SweepRow> sweep(const SparseTransformer& model, const DataSplit& split,
                            const EvalConfig& config, const EvalExtent& extent,
                            const std::function<void(int64_t, int64_t)>& on_window) {
  const int64_t seq_len = model.config().seq_len;
  LACE_CHECK(extent.record_bytes == 0,
             "[evaluate] records are scored whole, there is no minimum context to sweep, got "
             "records of ",
             extent.record_bytes, " bytes");
  std::vector<SweepRow> rows;
  int64_t total = 0, before = 0;
  for (const int64_t context : sweep_contexts(seq_len)) {
    EvalConfig own = config;
    own.min_context = context;
    check(split, seq_len, own, extent);
    total += WindowList(split, seq_len, context, extent.most_windows).count();
    rows.push_back({.min_context = context, .result = {}});
  }
  for (SweepRow& row : rows) {
    EvalConfig own = config;
    own.min_context = row.min_context;
    row.result = evaluate(model, split, own, extent, [&](int64_t done, int64_t) {
      if (on_window) on_window(before + done, total);
    });
    before += static_cast<int64_t>(row.result.windows.size());
  }
  return rows;
}

}  // namespace lace
