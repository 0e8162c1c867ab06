#include "lace/probe.h"

#include <cmath>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "train/batch.h"
#include "train/folder_test.h"
#include "train/interval.h"
#include "train/probe_page.h"
#include "train/small_recipe.h"

namespace lace {
namespace {

// A model that answers with what it has seen, without being trained: attention is even over all
// symbols that the pattern lets it see, and gives their mean; each symbol of it becomes likelier.
SparseTransformer counting_model(const std::string& pattern) {
  constexpr int64_t kSymbols = 64;
  ModelConfig config;
  config.vocab = config.d_model = kSymbols;
  config.seq_len = 128;
  config.layers = 1;
  config.heads = 2;
  config.patterns = {pattern};
  return SparseTransformer(config);
}

void set_counting(const SparseTransformer& model) {
  const torch::NoGradGuard no_grad;
  const at::Tensor one = torch::eye(64);
  for (const auto& [name, tensor] : model.parameters()) {
    if (name.find("ln") != std::string::npos) continue;  // gains of 1, no bias
    tensor.zero_();
    if (name == "tok") tensor.copy_(one * 0.1);
    if (name == "blocks.0.qkv.weight") tensor.slice(0, 128).copy_(one);  // values alone
    if (name == "blocks.0.proj.weight" || name == "out.weight") tensor.copy_(one);
  }
}

// Two layers that see 31 symbols before the one they predict, at random.
class LocalModel {
 public:
  LocalModel() : model_(config()) {
    const torch::NoGradGuard no_grad;
    torch::manual_seed(3);
    for (const auto& [name, tensor] : model_.parameters())
      if (name == "out.weight" || name.find("qkv.weight") != std::string::npos)
        tensor.normal_(0, 0.5);
  }
  static ModelConfig config() {
    ModelConfig config = small_recipe().model;
    config.seq_len = 128;
    config.patterns = {"local(16)"};
    return config;
  }
  SparseTransformer model_;
};

TEST(Probe, WhatAModelCannotSeeSavesNothingToTheBit) {
  const LocalModel local;
  const DataSplit text(small_text(2000));
  ProbeOptions options;
  options.lengths = {8};
  // The repeat, from 120, sees symbols from 89 on: the strings end at 80, 88 and 92 here.
  options.depths = {0, 0.3, 0.64, 0.71, 0.75, 1};
  options.batch = 3;
  for (const DataSplit& filler : {text, DataSplit()}) {
    const ProbeResult result = probe(local.model_, filler, options);
    EXPECT_EQ(result.random_filler, filler.size() == 0);
    ASSERT_EQ(result.cells.size(), 6u);
    for (const CopyCell& cell : result.cells) {
      if (cell.depth < 0.75) {
        EXPECT_EQ(cell.copied.mean, cell.fresh.mean) << cell.depth;
        EXPECT_EQ(cell.gain.mean, 0) << cell.depth;
        EXPECT_EQ(*cell.gain.half_width, 0) << cell.depth;
      } else {
        EXPECT_NE(cell.copied.mean, cell.fresh.mean) << cell.depth;
      }
    }
    EXPECT_EQ(result.cells[0].distance, 120);
    EXPECT_EQ(result.cells[5].distance, 8);
  }
}

TEST(Probe, WhatAModelRemembersSavesBits) {
  ProbeOptions options;
  options.lengths = {8, 32};
  options.depths = {0, 0.5, 1};
  options.trials = 32;
  const SparseTransformer dense = counting_model("dense"), local = counting_model("local(16)");
  set_counting(dense);
  set_counting(local);
  const ProbeResult all = probe(dense, {}, options), near = probe(local, {}, options);
  EXPECT_TRUE(all.positions.empty());
  for (size_t i = 0; i < all.cells.size(); ++i) {
    const CopyCell& cell = all.cells[i];
    EXPECT_GT(cell.gain.mean - *cell.gain.half_width, 0) << cell.length << " at " << cell.depth;
    EXPECT_NEAR(cell.gain.mean, cell.fresh.mean - cell.copied.mean, 1e-12);
    EXPECT_EQ(near.cells[i].fresh.mean == near.cells[i].copied.mean,
              cell.distance - cell.length >= 16)
        << cell.length << " at " << cell.depth;
  }
}

TEST(Probe, StringsAreMadeOfTheFillersBytes) {
  const SparseTransformer dense = counting_model("dense");
  set_counting(dense);
  ProbeOptions options;
  options.trials = 2;
  const DataSplit constant(ByteStream(std::vector<uint8_t>(500, 7)));
  for (const CopyCell& cell : probe(dense, constant, options).cells) EXPECT_EQ(cell.gain.mean, 0);
}

TEST(Probe, ASeedIsAResult) {
  const LocalModel local;
  const DataSplit text(small_text(2000));
  ProbeOptions options{.depths = {1}, .trials = 3, .batch = 2};
  const auto gain = [&] { return probe(local.model_, text, options).cells.front().gain.mean; };
  const double first = gain();
  EXPECT_EQ(gain(), first);
  options.seed = 2;
  EXPECT_NE(gain(), first);
}

TEST(Probe, LossByPositionIsThatOfTheWindows) {
  const LocalModel local;
  DataSplit text;  // a window in each piece, five in all
  for (int i = 0; i < 5; ++i) text.append_piece(small_text(1000).slice(i * 150, i * 150 + 140));
  ProbeOptions options{.lengths = {4}, .depths = {0}, .trials = 1, .windows = 9, .batch = 2};
  int64_t done = 0, total = 0;
  const ProbeResult result = probe(local.model_, text, options, [&](int64_t d, int64_t t) {
    done = d;
    total = t;
  });
  EXPECT_EQ(total, 2 + 5);
  EXPECT_EQ(done, total);
  EXPECT_EQ(result.position_windows, 5);
  ASSERT_EQ(result.positions.size(), 8u);  // 0, 1, 2…3, 4…7, 8…15, 16…31, 32…63, 64…127
  for (size_t bin = 0; bin < 8; ++bin) {
    const int64_t begin = bin == 0 ? 0 : int64_t{1} << (bin - 1), end = int64_t{1} << bin;
    EXPECT_EQ(result.positions[bin].begin, begin);
    EXPECT_EQ(result.positions[bin].end, end);
    EXPECT_EQ(result.positions[bin].bytes, 5 * (end - begin));
    std::vector<double> means;
    for (int64_t piece = 0; piece < 5; ++piece) {
      const at::Tensor nats =
          local.model_.nats(train::read_windows(text.bytes, {text.piece_begin(piece)}, 128))[0];
      means.push_back(nats.slice(0, begin, end).mean().item<double>() / std::log(2));
    }
    const Estimate expected = train::mean_of(means), &got = result.positions[bin].bits_per_byte;
    EXPECT_NEAR(got.mean, expected.mean, 1e-4);
    EXPECT_NEAR(*got.half_width, *expected.half_width, 1e-4);
  }
}

TEST(Probe, LengthsFollowTheWindow) {
  EXPECT_EQ(probe_lengths(512), (std::vector<int64_t>{8, 32, 128}));
  EXPECT_EQ(probe_lengths(511), (std::vector<int64_t>{8, 32}));
  EXPECT_EQ(probe_lengths(20), (std::vector<int64_t>{5}));
  EXPECT_EQ(probe_lengths(2), (std::vector<int64_t>{1}));
}

TEST(Probe, RefusesWhatMakesNoSense) {
  const LocalModel local;
  const auto error = [&](const ProbeOptions& options) {
    return error_of([&] { probe(local.model_, {}, options); });
  };
  EXPECT_HAS(error({.lengths = {8, 65}}), "[probe] lengths must be in [1, 64], half of seq_len");
  EXPECT_HAS(error({.depths = {1.5}}), "[probe] depths must be in [0, 1], got 1.5");
  EXPECT_HAS(error({.depths = {std::nan("")}}), "[probe] depths must be in [0, 1]");
  EXPECT_HAS(error({.depths = {}}), "[probe] depths must be one at least");
  EXPECT_HAS(error({.trials = 0}), "[probe] trials must be at least 1, got 0");
  EXPECT_HAS(error({.windows = -1}), "[probe] windows must be at least 0, got -1");
}

TEST(ProbePage, ShowsEveryCellAndNoNameAsMarkup) {
  ProbeResult result{.seq_len = 64, .lengths = {4, 8}, .depths = {0, 1}, .trials = 2};
  for (const int64_t length : result.lengths)
    for (const double depth : result.depths)
      result.cells.push_back({.length = length,
                              .depth = depth,
                              .distance = 9,
                              .copied = {1, {}},
                              .fresh = {4, {}},
                              .gain = {depth == 0 ? std::nan("") : 3, 0.5}});
  result.positions = {{0, 1, 5, {7.5, 0.1}},
                      {1, 2, 5, {std::nan(""), {}}},
                      {2, 4, 10, {6, 0.2}},
                      {1000, 2000, 10, {5.9, 0.2}}};
  EXPECT_EQ(saved_share(result.cells[0]), 0);
  EXPECT_EQ(saved_share(result.cells[1]), 0.75);
  const std::vector<ProbedRun> runs{{"runs/<script>&\"", "dense", result}, {"b", "", result}};
  const std::string page = probe_page(runs);
  size_t cells = 0;
  for (size_t at = page.find("<td"); at != std::string::npos; at = page.find("<td", at + 1))
    ++cells;
  EXPECT_EQ(cells, 8u);
  EXPECT_HAS(page, "runs/&lt;script&gt;&amp;&quot;");
  EXPECT_EQ(page.find("<script"), std::string::npos);
  EXPECT_EQ(page.find("nan"), std::string::npos);
  EXPECT_HAS(page, ">3.00<small>75%");
  EXPECT_HAS(page, "class=\"c1\"");  // a line a run
  for (const char* tick : {">6</text>", ">6.5</text>", ">7.5</text>", ">0</text>", ">100</text>",
                           ">1,000</text>", ">bits/byte</text>", ">bytes before it in the window<"})
    EXPECT_HAS(page, tick);
  EXPECT_EQ(page.find("http"), std::string::npos);
}

}  // namespace
}  // namespace lace
