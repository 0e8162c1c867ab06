#include "train/gradient_buckets.h"

#include <gtest/gtest.h>

namespace lace::train {
namespace {

using distributed::Range;
using Ranges = std::vector<std::pair<int64_t, int64_t>>;

Ranges of(const std::vector<Range>& ranges) {
  Ranges pairs;
  for (const Range& range : ranges) pairs.emplace_back(range.begin, range.end);
  return pairs;
}

// An arena as a model's: tables, four layers' matrices, an output; a norm, four layers' vectors.
const std::vector<std::vector<Range>> kLayers = {{{100, 200}, {710, 715}, {715, 720}},
                                                 {{200, 300}, {720, 730}},
                                                 {{300, 350}, {350, 400}, {730, 740}},
                                                 {{400, 500}, {740, 750}}};
constexpr int64_t kElements = 750;

TEST(GradientBuckets, LayersGoTogetherUntilThereIsEnough) {
  const GradientBuckets buckets(kLayers, kElements, 200);
  EXPECT_EQ(of(buckets.after(3)), Ranges{});
  EXPECT_EQ(of(buckets.after(2)), (Ranges{{300, 500}, {730, 750}}));
  EXPECT_EQ(of(buckets.after(1)), Ranges{});
  EXPECT_EQ(of(buckets.after(0)), (Ranges{{100, 300}, {710, 730}}));
  EXPECT_EQ(of(buckets.rest()), (Ranges{{0, 100}, {500, 710}}));
}

TEST(GradientBuckets, WhatIsLeftOfTheLayersGoesWithTheFirst) {
  const GradientBuckets buckets(kLayers, kElements, 230);
  EXPECT_EQ(of(buckets.after(1)), (Ranges{{200, 500}, {720, 750}}));
  EXPECT_EQ(of(buckets.after(0)), (Ranges{{100, 200}, {710, 720}}));
}

TEST(GradientBuckets, EveryElementIsExchangedOnce) {
  for (const int64_t bucket : {1, 110, 111, 300, 10000}) {
    for (const int64_t elements : {kElements, kElements + 14}) {
      const GradientBuckets buckets(kLayers, elements, bucket);
      std::vector<int> times(static_cast<size_t>(elements));
      const auto count = [&](const std::vector<Range>& ranges) {
        for (const Range& range : ranges)
          for (int64_t i = range.begin; i < range.end; ++i) ++times[static_cast<size_t>(i)];
      };
      for (int64_t layer = 0; layer < 4; ++layer) count(buckets.after(layer));
      count(buckets.rest());
      EXPECT_EQ(times, std::vector<int>(times.size(), 1)) << bucket;
    }
  }
}

}  // namespace
}  // namespace lace::train
