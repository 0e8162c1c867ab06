#include "data/shuffle.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

namespace lace {
namespace {

std::vector<int64_t> order(int64_t size, uint64_t seed) {
  const Shuffle shuffle(size, seed);
  std::vector<int64_t> result;
  for (int64_t i = 0; i < size; ++i) result.push_back(shuffle(i));
  return result;
}

TEST(Mix64, FirstNumbersOfSplitMix64) {
  EXPECT_EQ(mix64(kMix64Step), 0xe220a8397b1dcdafu);
  EXPECT_EQ(mix64(2 * kMix64Step), 0x6e789e6aa1b965f4u);
}

TEST(Shuffle, IsAPermutationOfEverySize) {
  std::vector<int64_t> sizes = {1000, 1023, 1024, 1025, 4099, 65536, 100003};
  for (int64_t size = 1; size <= 130; ++size) sizes.push_back(size);
  for (const int64_t size : sizes) {
    for (const uint64_t seed : {0u, 1u, 77u}) {
      std::vector<int64_t> image = order(size, seed);
      std::sort(image.begin(), image.end());
      for (int64_t i = 0; i < size; ++i)
        ASSERT_EQ(image[static_cast<size_t>(i)], i) << "size " << size << ", seed " << seed;
    }
  }
}

// Chi-squared of counts that should be equal, as standard deviations above its mean.
double unevenness(const std::vector<int64_t>& counts) {
  const double mean =
      static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0})) /
      static_cast<double>(counts.size());
  double chi = 0;
  for (const int64_t count : counts) {
    const double difference = static_cast<double>(count) - mean;
    chi += difference * difference / mean;
  }
  const double freedom = static_cast<double>(counts.size() - 1);
  return (chi - freedom) / std::sqrt(2 * freedom);
}

TEST(Shuffle, EveryOrderOfFewIsAsLikely) {
  for (const int64_t size : {2, 3, 4, 5}) {
    int64_t orders = 1;
    for (int64_t i = 2; i <= size; ++i) orders *= i;
    std::map<std::vector<int64_t>, int64_t> seen;
    for (uint64_t seed = 0; seed < 400u * static_cast<uint64_t>(orders); ++seed)
      ++seen[order(size, seed)];
    ASSERT_EQ(static_cast<int64_t>(seen.size()), orders);
    std::vector<int64_t> counts;
    for (const auto& [_, count] : seen) counts.push_back(count);
    EXPECT_LT(unevenness(counts), 5) << size;
  }
}

TEST(Shuffle, ElementsGoAnywhereAndNeighboursPart) {
  constexpr int64_t kSize = 1000;
  constexpr uint64_t kSeeds = 500;
  std::vector<int64_t> places(kSize), distances(kSize);
  int64_t stay = 0, stay_neighbours = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const std::vector<int64_t> image = order(kSize, seed);
    for (int64_t i = 0; i < kSize; ++i) {
      const int64_t to = image[static_cast<size_t>(i)];
      const int64_t next = image[static_cast<size_t>((i + 1) % kSize)];
      stay += to == i;
      stay_neighbours += next == to + 1;
      ++distances[static_cast<size_t>((to - i + kSize) % kSize)];
      if (i == 17) ++places[static_cast<size_t>(to)];
    }
  }
  // One of each a permutation, with variance 1.
  EXPECT_NEAR(static_cast<double>(stay) / kSeeds, 1, 5 / std::sqrt(double{kSeeds}));
  EXPECT_NEAR(static_cast<double>(stay_neighbours) / kSeeds, 1, 5 / std::sqrt(double{kSeeds}));
  EXPECT_LT(unevenness(distances), 5);
  std::vector<int64_t> tenths(10);  // 500 draws are too few for a thousand places
  for (int64_t i = 0; i < kSize; ++i)
    tenths[static_cast<size_t>(i / 100)] += places[static_cast<size_t>(i)];
  EXPECT_LT(unevenness(tenths), 5);
}

TEST(Shuffle, LargeSizesAreEven) {
  for (const int64_t size : {int64_t{1} << 33, (int64_t{1} << 40) + 12345, INT64_MAX}) {
    const Shuffle shuffle(size, 5);
    std::vector<int64_t> counts(64), steps(64);
    int64_t before = shuffle(0);
    for (int64_t i = 1; i <= 20000; ++i) {
      const int64_t to = shuffle(i);
      ASSERT_TRUE(to >= 0 && to < size);
      ++counts[static_cast<size_t>(static_cast<double>(to) / static_cast<double>(size) * 64) % 64];
      const int64_t step = to >= before ? to - before : to - before + size;
      ++steps[static_cast<size_t>(static_cast<double>(step) / static_cast<double>(size) * 64) % 64];
      before = to;
    }
    EXPECT_LT(unevenness(counts), 5) << size;
    EXPECT_LT(unevenness(steps), 5) << size;
  }
}

}  // namespace
}  // namespace lace
