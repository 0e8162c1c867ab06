// Lengths and arguments near 2³¹, past which nothing of a pattern goes.

#include <array>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "lace/error.h"

#include "pattern/random_patterns.h"
#include "plan/check.h"
#include "plan/expand.h"
#include "plan/explain.h"
#include "plan/stored.h"

namespace lace::testing {
namespace {

constexpr int64_t kMost = 2147483647;

template <typename Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(LargePlans, CountsThatDoNotFitAreErrors) {
  EXPECT_EQ(plan::stored(kMost, "tiles"), kMost);
  EXPECT_EQ(plan::stored(size_t{7}, "tiles"), 7);
  EXPECT_EQ(error_of([] { plan::stored(kMost + 1, "tiles"); }),
            "[compile] a plan must have at most 2147483647 tiles, got 2147483648: use larger tiles "
            "or a shorter sequence");
  EXPECT_THROW(plan::stored(size_t{1} << 40, "runs"), Error);
  EXPECT_EQ(error_of([] { dense().bind(1, 1, kMost + 1); }),
            "[bind] k_len must be at most 2147483647, got 2147483648");
}

// The last queries of the longest sequence there is.
TEST(LargePlans, PairsNearTheEndOfTheLongestSequence) {
  constexpr int64_t kQueries = 100;
  const std::pair<const char*, int64_t> cases[] = {
      {"local(7)", 700},
      {"strided(1073741824)", 200},
      {"summary(1073741824, 5)", 510},  // 5 each, and 1 + 2 + 3 + 4 of the columns at the end
      {"dilated(3, 1073741817)", 213},  // 13 queries have a third key
      {"global{0, -1}", 101},
      {"sinks(3)", 300},
      {"sinks(3) & strided(2147483647)", 0},
      {"local(2147483647, 2147483647) & sinks(2)", 200},
      {"random(1, 2147483647, 3) & sinks(1)", 100},
      {"block(2147483646) & local(2)", 199},  // the last query is alone
      {"bidirectional(local(2))", 299},
  };
  for (const auto& [text, pairs] : cases) {
    const BoundPattern bound = Pattern::parse(text).bind(1, kQueries, kMost);
    const Plan plan = compile(bound, {64, 64}, false);
    std::set<std::pair<int64_t, int64_t>> found;
    int64_t live = 0;
    for (const Pass& pass : plan.passes) live += pass.live_pairs;
    for_each_pair(plan, 0, [&](int32_t, int64_t owner, int64_t other) {
      EXPECT_TRUE(bound.attends(0, kMost - kQueries + owner, other)) << text;
      EXPECT_TRUE(found.emplace(owner, other).second) << text;
    });
    EXPECT_EQ(live, pairs) << text;
    EXPECT_EQ(static_cast<int64_t>(found.size()), pairs) << text;
  }
  const Plan all = compile(dense().bind(1, kQueries, kMost), {64, 64}, false);
  int64_t live = 0;
  for (const Pass& pass : all.passes) live += pass.live_pairs;
  EXPECT_EQ(live, kQueries * (kMost + kMost - kQueries + 1) / 2);
}

TEST(LargePlans, EveryPositionOfTheLongestSequenceIsListed) {
  const Plan plan = compile(local(2).bind(1, kMost, kMost), {1024, 1024}, false);
  ASSERT_FALSE(plan.passes.empty());
  EXPECT_EQ(plan.passes[0].tile_end, 2097152);
  EXPECT_EQ(plan.passes[0].live_pairs, 2 * kMost - 1);
  const OwnerTile& last = plan.tiles.back();
  EXPECT_LE(plan.position(last.owners, 0, 0), kMost - 1);
}

TEST(LargePlans, HugeArgumentsAreExact) {
  std::mt19937_64 rng(9);
  const auto number = [&rng] {
    constexpr std::array<int64_t, 8> kNumbers{1,         2,     5,    1 << 30, (1 << 30) + 1,
                                              kMost - 1, kMost, kMost};
    return kNumbers[static_cast<size_t>(pick(rng, 0, kNumbers.size() - 1))];
  };
  const auto atom = [&]() -> std::string {
    const int64_t length = number(), columns = std::min(number(), length);
    switch (pick(rng, 0, 8)) {
      case 0:
        return concat("local(", number(), ", ", number(), ")");
      case 1:
        return concat("block(", length, ")");
      case 2:
        return concat("strided(", length, ")");
      case 3:
        return concat("summary(", length, ", ", columns, ", ", length / columns - 1, ")");
      case 4:
        return concat("fixed(", length, ", ", columns, ", ", length / columns, ")");
      case 5:
        return concat("dilated(", number(), ", ", number(), ")");
      case 6:
        return concat("global{0..", number(), ", -1}");
      case 7:
        return concat("sinks(", number(), ")");
      default:
        return concat("random(", number(), ", ", number(), ", ", number(), ")");
    }
  };
  for (int round = 0; round < 400; ++round) {
    std::string text = atom();
    for (int64_t more = pick(rng, 0, 2); more > 0; --more) {
      text = concat("(", text, pick(rng, 0, 1) ? " | " : " & ", atom(), ")");
    }
    if (pick(rng, 0, 1)) text = "bidirectional(" + text + ")";
    const int64_t k_len = pick(rng, 1, 24);
    ASSERT_EQ(check_pattern(text, 1, pick(rng, 1, k_len), k_len, {8, 8}), "");
    const BoundPattern bound = Pattern::parse(text).bind(1, k_len, k_len);
    EXPECT_NO_THROW(reach({bound.pattern()}, 1, k_len));
  }
}

TEST(LargePlans, RandomBlocksAreBounded) {
  constexpr int64_t kMillion = 1'048'576;
  const Plan all = compile(random(kMost, 1, 0).bind(1, kMillion, kMillion), {128, 128}, false);
  EXPECT_EQ(all.passes[0].live_pairs, kMillion * (kMillion + 1) / 2);
  EXPECT_EQ(random_blocks(kMost, 0, 0, kMillion - 1, kMillion, true).size(), size_t{kMillion});
  EXPECT_EQ(
      error_of([] {
        compile(random(500'000, 1, 0).bind(1, kMillion, kMillion), {128, 128}, false);
      }),
      "[random] blocks drawn for all blocks of queries must be at most 67108864, got 500000 for "
      "each of 1048576");
}

TEST(LargePlans, FiguresThatOverflowAreErrors) {
  const std::string error = error_of([] {
    explain({bidirectional(dense())}, 65536, 1 << 26, {128, 128});
  });
  EXPECT_EQ(error,
            "[explain] pairs of all heads and layers must stay below 2^63, got 65536 times "
            "4503599627370496");
}

}  // namespace
}  // namespace lace::testing
