#include <algorithm>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lace/error.h"
#include "lace/pattern.h"

#include "pattern/random_patterns.h"
#include "plan/reach_search.h"

namespace lace {
namespace {

std::vector<Pattern> parse_all(const std::vector<const char*>& texts) {
  std::vector<Pattern> layers;
  for (const char* text : texts) layers.push_back(Pattern::parse(text));
  return layers;
}

// Layer after layer over all pairs, until everything is reached or a whole cycle changes nothing.
int64_t brute_force(const std::vector<Pattern>& layers, int64_t heads, int64_t n) {
  const auto size = static_cast<size_t>(n);
  std::vector<std::vector<bool>> seen(size, std::vector<bool>(size));
  for (size_t i = 0; i < size; ++i) seen[i][i] = true;
  size_t unchanged = 0;
  for (size_t depth = 1; unchanged < layers.size(); ++depth) {
    const BoundPattern bound = layers[(depth - 1) % layers.size()].bind(heads, n, n);
    auto next = seen;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        bool live = false;
        for (int64_t head = 0; head < heads; ++head) live = live || bound.attends(head, i, j);
        for (size_t k = 0; live && k < size; ++k) {
          if (seen[static_cast<size_t>(j)][k]) next[static_cast<size_t>(i)][k] = true;
        }
      }
    }
    unchanged = next == seen ? unchanged + 1 : 0;
    seen = std::move(next);
    bool all = true;
    for (size_t i = 0; i < size; ++i) {
      for (size_t j = 0; j < size; ++j) all = all && (seen[i][j] || (bound.causal() && j > i));
    }
    if (all) return static_cast<int64_t>(depth);
  }
  return -1;
}

// specs of the Sparse Transformer: n = 96, l = 12.
TEST(Reach, SparseTransformerFacts) {
  const auto layers = [](const std::vector<const char*>& texts, int64_t heads = 1) {
    return reach(parse_all(texts), heads, 96).layers;
  };
  EXPECT_EQ(layers({"dense"}), 1);
  EXPECT_EQ(layers({"local(12) | strided(12)"}), 2);
  EXPECT_EQ(layers({"local(12)", "strided(12)"}), 2);
  EXPECT_EQ(layers({"strided(12)", "local(12)"}), 2);
  EXPECT_EQ(layers({"heads(1*local(12), 1*strided(12))"}, 2), 2);
  EXPECT_EQ(layers({"local(11)", "strided(12)"}), 3);
  EXPECT_EQ(layers({"block(12) | summary(12, 3)"}), 2);
  for (const char* stripe : {"block(12) | summary(12, 3, 1)", "block(12) | summary(12, 3, 2)",
                             "block(12) | summary(12, 3, 3)"}) {
    EXPECT_EQ(layers({stripe}), -1) << stripe;
  }
  EXPECT_EQ(layers({"fixed(12, 3, 4)"}, 4), 1);
  EXPECT_EQ(layers({"strided(12)"}), -1);
  EXPECT_EQ(layers({"local(12)"}), 9);
  EXPECT_EQ(layers({"local(1)"}), -1);
}

TEST(Reach, AtTheLengthsOfThePaper) {
  EXPECT_EQ(reach(parse_all({"block(128) | summary(128, 32)"}), 8, 12288).layers, 2);
  EXPECT_EQ(reach(parse_all({"local(128) | strided(128)"}), 8, 12288).layers, 2);
  EXPECT_EQ(reach(parse_all({"local(128)"}), 8, 12288).layers, 97);
  EXPECT_TRUE(reach(parse_all({"dense"}), 8, 12288).exact);
}

TEST(Reach, EqualsBruteForce) {
  std::mt19937_64 rng(5);
  for (int round = 0; round < 300; ++round) {
    const bool causal = testing::pick(rng, 0, 1) == 0;
    std::vector<Pattern> layers;
    std::string text;
    for (int64_t count = testing::pick(rng, 1, 3); count > 0; --count) {
      const Pattern tree = testing::random_tree(rng, 1);
      layers.push_back(causal ? tree : bidirectional(tree));
      text += layers.back().to_string() + "; ";
    }
    const int64_t n = testing::pick(rng, 1, 70);
    const int64_t heads = testing::pick(rng, 1, 2);
    ASSERT_EQ(reach(layers, heads, n).layers, brute_force(layers, heads, n)) << text << n;
  }
}

TEST(Reach, LongSequencesAreSampled) {
  for (const auto& [text, layers] :
       std::vector<std::pair<const char*, int64_t>>{{"dense", 1},
                                                    {"local(1024) | strided(1024)", 2},
                                                    {"block(1024) | summary(1024, 32)", 2},
                                                    {"local(1024)", 65},
                                                    {"local(100) & strided(7)", -1},
                                                    {"bidirectional(local(2048))", 64}}) {
    const Reach result = reach({Pattern::parse(text)}, 2, 65536);
    EXPECT_EQ(result.layers, layers) << text;
    EXPECT_FALSE(result.exact);
  }
  EXPECT_EQ(reach(parse_all({"local(256)", "strided(256)"}), 1, 65536).layers, 2);
  EXPECT_EQ(reach(parse_all({"strided(256)", "block(4)", "local(256)"}), 1, 65536).layers, 3);
}

// The search that long sequences are sampled by, over every query of a short one.
TEST(Reach, SearchEqualsBruteForce) {
  std::mt19937_64 rng(6);
  for (int round = 0; round < 300; ++round) {
    const bool causal = testing::pick(rng, 0, 1) == 0;
    const int64_t n = testing::pick(rng, 1, 70), heads = testing::pick(rng, 1, 2);
    std::vector<Pattern> layers;
    std::vector<BoundPattern> bound;
    std::string text;
    for (int64_t count = testing::pick(rng, 1, 3); count > 0; --count) {
      const Pattern tree = testing::random_tree(rng, 2);
      layers.push_back(causal ? tree : bidirectional(tree));
      bound.push_back(layers.back().bind(heads, n, n));
      text += layers.back().to_string() + "; ";
    }
    plan::ReachSearch search(bound);
    int64_t most = 0;
    for (int64_t query = 0; query < n && most >= 0; ++query) {
      const int64_t depth = search.layers_of(query).layers;
      most = depth < 0 ? -1 : std::max(most, depth);
    }
    ASSERT_EQ(most, brute_force(layers, heads, n)) << text << n;
  }
}

constexpr int64_t kMillion = 1'048'576;

struct Long {
  const char* text;
  int64_t layers, heads = 1;
};

// Each of these takes well under a second; their live pairs, up to 5 · 10¹¹, would take minutes.
TEST(Reach, MillionsOfPositions) {
  const Long cases[] = {
      {"dense", 1},
      {"local(1)", -1},
      {"local(2)", kMillion - 1},
      {"local(128)", 8257},  // ⌈1048575 / 127⌉
      {"local(600000)", 2},
      {"local(2, 64)", 16383},  // blocks of 64 behind the last
      {"block(64)", -1},
      {"strided(1)", 1},
      {"strided(2)", -1},
      {"strided(1024)", -1},
      {"summary(2, 1)", -1},
      {"dilated(2, 1)", kMillion - 1},
      {"dilated(4, 3)", -1},
      {"global(64)", -1},
      {"sinks(1)", -1},
      {"random(3, 64, 7)", -1},
      {"local(2) | sinks(4)", kMillion - 5},  // the fifth position is the last to be seen
      {"local(1024) | strided(1024)", 2},
      {"local(2) | strided(2)", 2},
      {"fixed(1024, 32, 4)", 2, 4},
      {"heads(1*local(1024), 1*strided(1024))", 2, 2},
      {"local(4096) & strided(64)", -1},
      {"bidirectional(local(2))", kMillion - 1},
      {"bidirectional(global(1) | local(2))", 2},
      {"bidirectional(random(2, 64, 3))", -1},
  };
  for (const auto& [text, layers, heads] : cases) {
    const Reach result = reach({Pattern::parse(text)}, heads, kMillion);
    EXPECT_EQ(result.layers, layers) << text;
    EXPECT_FALSE(result.exact);
  }
  EXPECT_EQ(reach(parse_all({"local(2)", "strided(2)"}), 1, kMillion).layers, 2);
  EXPECT_EQ(reach(parse_all({"block(2)", "summary(2, 1)", "local(3)"}), 1, kMillion).layers, 2);
  // Random blocks make the way shorter than windows alone.
  const char* mixed = "heads(2*random(2, 64, 1) | local(64), 2*local(2) | sinks(1))";
  const int64_t layers = reach(parse_all({mixed}), 4, kMillion).layers;
  EXPECT_TRUE(2 <= layers && layers < kMillion / 64) << layers;
}

TEST(Reach, SearchAsksForEachPositionOnce) {
  for (const char* text : {"local(2)", "strided(2)", "local(1000)", "random(3, 64, 7)"}) {
    const std::vector<BoundPattern> bound{Pattern::parse(text).bind(1, 200'000, 200'000)};
    plan::ReachSearch search(bound);
    search.layers_of(199'999);
    EXPECT_LE(search.asked(), 4 * 200'000) << text;
  }
}

// Under causality draws end where all is seen below: far fewer than 512 for each position.
TEST(Reach, ManyRandomHeadsDrawFewBlocks) {
  const std::vector<BoundPattern> bound{
      Pattern::parse("random(8, 1, 7) | local(64)").bind(64, 65536, 65536)};
  plan::ReachSearch search(bound);
  const auto [layers, cut] = search.layers_of(65535);
  EXPECT_FALSE(cut);
  EXPECT_GT(layers, 1);
  EXPECT_LE(search.asked(), 200 * 65536);
}

// A search is cut by what it counts, and what it gives then is no more than what it would have
// found.
TEST(Reach, LongSearchesAreCut) {
  const std::vector<BoundPattern> bound{
      Pattern::parse("local(2) | strided(300)").bind(1, 65536, 65536)};
  plan::ReachSearch whole(bound), cut(bound);
  const auto full = whole.layers_of(65535);
  EXPECT_FALSE(full.cut);
  const auto part = cut.layers_of(65535, 1000);
  EXPECT_TRUE(part.cut);
  EXPECT_LE(cut.asked(), 1000 + 2 * 65536 / 300 + 100);
  EXPECT_TRUE(1 <= part.layers && part.layers <= full.layers) << part.layers;
  // 64 heads at a million positions: the work of all queries together has a bound.
  const Reach many = reach({Pattern::parse("random(64, 1, 7) | local(3)")}, 64, kMillion);
  EXPECT_TRUE(many.at_least);
  EXPECT_GE(many.layers, 2);
}

TEST(BitTree, FindsTheNext) {
  for (const int64_t size : {1, 64, 65, 4096, 5000, 300'000}) {
    plan::BitTree tree(size);
    EXPECT_EQ(tree.next(0), -1);
    std::set<int64_t> numbers;
    std::mt19937_64 rng(static_cast<uint64_t>(size));
    for (int round = 0; round < 2000; ++round) {
      const int64_t number = testing::pick(rng, 0, size - 1), from = testing::pick(rng, 0, size);
      if (testing::pick(rng, 0, 2) == 0) {
        tree.erase(number);
        numbers.erase(number);
      } else {
        tree.insert(number);
        numbers.insert(number);
      }
      const auto next = numbers.lower_bound(from);
      ASSERT_EQ(tree.next(from), next == numbers.end() ? -1 : *next) << size;
      const int64_t end = testing::pick(rng, 0, size);
      const bool inside = next != numbers.end() && *next < end;
      ASSERT_EQ(tree.next(from, end), inside ? *next : -1) << size;
    }
  }
}

TEST(Reach, ChecksItsLayers) {
  EXPECT_THROW(reach({}, 1, 8), Error);
  EXPECT_THROW(reach(parse_all({"dense", "bidirectional(dense)"}), 1, 8), Error);
}

}  // namespace
}  // namespace lace
