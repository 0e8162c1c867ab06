#include "lace/attention_maps.h"

#include <cmath>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "core/work_pool.h"
#include "model/small_model.h"
#include "model/visit_attention.h"
#include "train/attention_weights.h"

namespace lace {
namespace {

// k_j = log(j + 1) and q = 1: query i gives key j the weight (j + 1) / Σ of its live keys' (m + 1).
struct LogHead {
  explicit LogHead(const BoundPattern& pattern) : n(pattern.k_len()) {
    for (int64_t i = 0; i < n; ++i) {
      double sum = 0;
      for (int64_t j = 0; j <= i; ++j)
        if (pattern.attends(0, i, j)) sum += static_cast<double>(j + 1);
      q.push_back(1);
      k.push_back(std::log(static_cast<float>(i + 1)));
      lse.push_back(static_cast<float>(std::log(sum)));
    }
  }
  train::HeadRows rows() const {
    return {.q = q.data(), .k = k.data(), .lse = lse.data(), .n = n, .head_dim = 1, .scale = 1};
  }
  int64_t n;
  std::vector<float> q, k, lse;
};

std::vector<double> matrix_of(const BoundPattern& pattern, int64_t size, int threads = 1) {
  const LogHead head(pattern);
  std::vector<double> cells(static_cast<size_t>(size * size), NAN);
  add_weights(head.rows(), pattern, 0, size, size, WorkPool(threads), cells);
  return cells;
}

void expect_cells(const std::vector<double>& cells, const std::vector<double>& expected) {
  ASSERT_EQ(cells.size(), expected.size());
  for (size_t i = 0; i < cells.size(); ++i) {
    if (std::isnan(expected[i])) {
      EXPECT_TRUE(std::isnan(cells[i])) << "cell " << i << " is " << cells[i];
    } else {
      EXPECT_NEAR(cells[i], expected[i], 1e-6) << "cell " << i;
    }
  }
}

TEST(AttentionWeights, EachPairOfADenseHead) {
  const BoundPattern pattern = Pattern::parse("dense").bind(1, 4, 4);
  expect_cells(matrix_of(pattern, 4), {1, NAN, NAN, NAN,             //
                                       1 / 3., 2 / 3., NAN, NAN,     //
                                       1 / 6., 2 / 6., 3 / 6., NAN,  //
                                       0.1, 0.2, 0.3, 0.4});
}

TEST(AttentionWeights, CellsAreSumsOverTheirQueriesAndKeys) {
  const BoundPattern pattern = Pattern::parse("dense").bind(1, 4, 4);
  expect_cells(matrix_of(pattern, 2), {2, NAN, 0.5 + 0.3, 0.5 + 0.7});
  // Three rows of four queries: 0 and 1, 2, 3.
  const std::vector<double> three = matrix_of(pattern, 3);
  expect_cells({three.begin(), three.begin() + 3}, {2, NAN, NAN});
  expect_cells({three.end() - 3, three.end()}, {0.3, 0.3, 0.4});
}

TEST(AttentionWeights, OnlyLivePairsCount) {
  const BoundPattern pattern = Pattern::parse("local(2)").bind(1, 4, 4);
  expect_cells(matrix_of(pattern, 4), {1, NAN, NAN, NAN,          //
                                       1 / 3., 2 / 3., NAN, NAN,  //
                                       NAN, 2 / 5., 3 / 5., NAN,  //
                                       NAN, NAN, 3 / 7., 4 / 7.});
  const LogHead head(pattern);
  std::vector<double> cells(4, NAN);
  add_query_weights(head.rows(), pattern, 0, 3, cells);
  add_query_weights(head.rows(), pattern, 0, 3, cells);  // of a second window
  expect_cells(cells, {NAN, NAN, 6 / 7., 8 / 7.});
}

TEST(AttentionWeights, AQueryWithoutKeysGivesNothing) {
  const BoundPattern pattern = Pattern::parse("summary(2, 1)").bind(1, 3, 3);
  expect_cells(matrix_of(pattern, 3), {NAN, NAN, NAN,  //
                                       NAN, 1, NAN,    //
                                       NAN, 1, NAN});
}

TEST(AttentionWeights, AreTheSameForAnyNumberOfThreads) {
  const BoundPattern pattern = Pattern::parse("local(5) | strided(7)").bind(1, 100, 100);
  const std::vector<double> one = matrix_of(pattern, 32, 1), four = matrix_of(pattern, 32, 4);
  for (size_t i = 0; i < one.size(); ++i)
    EXPECT_TRUE(one[i] == four[i] || (std::isnan(one[i]) && std::isnan(four[i])));
}

DataSplit random_bytes(int64_t count) {
  const at::Tensor bytes = random_tokens(1, count).to(at::kByte);
  const auto* data = bytes.const_data_ptr<uint8_t>();
  return {ByteStream(std::vector<uint8_t>(data, data + count))};
}

const AttentionMap& map_of(const AttentionMaps& maps, int64_t layer, int64_t head, int64_t query) {
  for (const AttentionMap& map : maps.maps)
    if (map.layer == layer && map.head == head && map.query == query) return map;
  throw std::out_of_range("no such map");
}

// With queries of zeros every live key of a query has the same weight.
TEST(AttentionMaps, EvenWeightsOfAModelThatDoesNotLook) {
  const SparseTransformer model(small_config());
  for (const auto& [name, tensor] : model.parameters()) {
    const torch::NoGradGuard no_grad;
    if (name.find("qkv") != std::string::npos) tensor.zero_();
  }
  const AttentionMaps maps =
      attention_maps(model, random_bytes(64 * 5), {.size = 16, .queries = {37}, .windows = 3});
  EXPECT_EQ(maps.windows, 3);
  EXPECT_EQ(maps.maps.size(), 3u * 2 * 2);
  EXPECT_EQ(map_of(maps, 1, 0, -1).pattern, "local(8) | strided(8)");
  for (const AttentionMap& map : maps.maps) {
    const BoundPattern pattern = Pattern::parse(map.pattern).bind(1, 64, 64);
    std::vector<double> expected(map.query < 0 ? 16 * 16 : 38, NAN);
    for (int64_t query = 0; query < 64; ++query) {
      if (map.query >= 0 && query != map.query) continue;
      double keys = 0;
      for (int64_t key = 0; key <= query; ++key) keys += pattern.attends(0, query, key) ? 1 : 0;
      for (int64_t key = 0; key <= query; ++key) {
        if (!pattern.attends(0, query, key)) continue;
        double& cell =
            expected[static_cast<size_t>(map.query < 0 ? query / 4 * 16 + key / 4 : key)];
        cell = (std::isnan(cell) ? 0 : cell) + 1 / keys / (map.query < 0 ? 4 : 1);
      }
    }
    expect_cells(map.weights, expected);
  }
}

// The weights of all pairs are those of a softmax written out with libtorch, of rotated queries and
// of keys that several heads share too.
TEST(AttentionMaps, AreTheSoftmaxOfTheModelsOwnQueriesAndKeys) {
  ModelConfig config = small_rotary_config();
  config.kv_heads = 1;
  config.linear_gain = 4;
  const SparseTransformer model(config);
  const DataSplit split = random_bytes(64);
  const AttentionMaps maps = attention_maps(model, split, {.size = 64, .batch = 8});
  EXPECT_EQ(maps.windows, 1);
  const at::Tensor tokens = random_tokens(1, 64);
  int64_t layers = 0;
  model::visit_attention(model, tokens, [&](const model::LayerAttention& attention) {
    EXPECT_EQ(attention.layer, layers++);
    for (int64_t head = 0; head < 2; ++head) {
      const AttentionMap& map = map_of(maps, attention.layer, head, -1);
      const BoundPattern pattern = attention.pattern.bind(2, 64, 64);
      at::Tensor logits = torch::full({64, 64}, -INFINITY, at::kDouble);
      const at::Tensor products =
          torch::mm(attention.q[0][head].to(at::kDouble), attention.k[0][0].to(at::kDouble).t());
      for (int64_t i = 0; i < 64; ++i)
        for (int64_t j = 0; j <= i; ++j)
          if (pattern.attends(head, i, j)) logits[i][j] = attention.scale * products[i][j];
      const at::Tensor weights = torch::softmax(logits, 1);
      const double* value = weights.const_data_ptr<double>();
      double largest = 0;
      for (size_t i = 0; i < map.weights.size(); ++i) {
        largest = std::max(largest, value[i]);
        EXPECT_EQ(std::isnan(map.weights[i]), !pattern.attends(head, i / 64, i % 64));
        if (pattern.attends(head, i / 64, i % 64)) {
          EXPECT_NEAR(map.weights[i], value[i], 2e-6);
        }
      }
      EXPECT_GT(largest, 0.1);
    }
    return true;
  });
  EXPECT_EQ(layers, config.layers);
}

TEST(AttentionMaps, AShortSplitGivesAShortWindow) {
  const SparseTransformer model(small_config());
  const AttentionMaps maps = attention_maps(model, random_bytes(50), {.layers = {2}});
  EXPECT_EQ(maps.window, 50);
  EXPECT_EQ(maps.windows, 1);
  EXPECT_EQ(map_of(maps, 2, 1, -1).rows, 50);
}

TEST(AttentionMaps, WrongOptionsAreNamed) {
  const SparseTransformer model(small_config());
  const auto error = [&](const AttentionMapOptions& options, int64_t bytes = 64) {
    std::string text;
    try {
      attention_maps(model, random_bytes(bytes), options);
    } catch (const Error& error) {
      text = error.what();
    }
    return text;
  };
  EXPECT_EQ(error({.layers = {3}}), "[attention_maps] layers must be in [0, 2], got 3");
  EXPECT_EQ(error({.heads = {0, 2}}), "[attention_maps] heads must be in [0, 1], got 2");
  EXPECT_EQ(error({.queries = {64}}), "[attention_maps] queries must be in [0, 63], got 64");
  EXPECT_EQ(error({.size = 513}), "[attention_maps] size must be in [0, 512], got 513");
  EXPECT_EQ(error({.size = 0}),
            "[attention_maps] there is nothing to map: size is 0 and there are no queries");
  EXPECT_EQ(error({.queries = {63}}, 63), "[attention_maps] queries must be in [0, 62], got 63");
  EXPECT_EQ(error({}, 0), "[attention_maps] there are no bytes to look at");
}

}  // namespace
}  // namespace lace
