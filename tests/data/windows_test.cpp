#include <algorithm>
#include <set>

#include <gtest/gtest.h>

#include "lace/data.h"

namespace lace {
namespace {

TEST(WindowSampler, EpochsHoldDisjointWindowsInShuffledOrder) {
  constexpr int64_t kSize = 1037, kWindow = 10;
  const WindowSampler sampler(kSize, kWindow, 7);
  const int64_t count = sampler.windows_per_epoch();
  EXPECT_EQ(count, 102);
  std::set<int64_t> offsets;
  for (int64_t epoch = 0; epoch < 20; ++epoch) {
    std::vector<int64_t> begins;
    for (int64_t i = 0; i < count; ++i) begins.push_back(sampler.begin(epoch * count + i));
    EXPECT_FALSE(std::is_sorted(begins.begin(), begins.end()));
    std::sort(begins.begin(), begins.end());
    offsets.insert(begins.front());
    EXPECT_GE(begins.front(), 0);
    EXPECT_LT(begins.front(), kWindow);
    for (size_t i = 1; i < begins.size(); ++i) EXPECT_EQ(begins[i] - begins[i - 1], kWindow);
    EXPECT_LE(begins.back() + kWindow, kSize);
  }
  EXPECT_GE(offsets.size(), 5u);
}

TEST(WindowSampler, AnyOrderOfAskingGivesTheSame) {
  const WindowSampler forward(1000, 16, 3), jumping(1000, 16, 3), other(1000, 16, 4);
  std::vector<int64_t> expected, different;
  for (int64_t i = 0; i < 200; ++i) expected.push_back(forward.begin(i));
  for (int64_t i = 0; i < 200; ++i) different.push_back(other.begin(i));
  EXPECT_NE(expected, different);
  for (int64_t i : {199, 0, 130, 61, 62, 5}) {
    EXPECT_EQ(jumping.begin(i), expected[static_cast<size_t>(i)]) << i;
  }
}

TEST(WindowSampler, EpochsHaveOrdersOfTheirOwn) {
  const WindowSampler sampler(4000, 10, 1, true), other(4000, 10, 2, true);
  std::set<std::vector<int64_t>> orders;
  for (const WindowSampler* s : {&sampler, &other}) {
    for (int64_t epoch = 0; epoch < 10; ++epoch) {
      std::vector<int64_t> begins;
      for (int64_t i = 0; i < 400; ++i) begins.push_back(s->begin(epoch * 400 + i));
      orders.insert(begins);
    }
  }
  EXPECT_EQ(orders.size(), 20u);
}

TEST(WindowSampler, HugeStreamsNeedNoMemory) {
  constexpr int64_t kSize = int64_t{1} << 60;
  const WindowSampler sampler(kSize, 1024, 3);
  const int64_t count = sampler.windows_per_epoch();
  EXPECT_EQ(count, (kSize - 1023) / 1024);
  std::set<int64_t> begins;
  for (int64_t i = 0; i < 1000; ++i) {
    const int64_t begin = sampler.begin(i);
    EXPECT_TRUE(begin >= 0 && begin <= kSize - 1024) << begin;
    EXPECT_EQ(begin % 1024, sampler.begin(count - 1) % 1024);
    begins.insert(begin);
  }
  EXPECT_EQ(begins.size(), 1000u);
  EXPECT_GE(sampler.begin(5 * count), 0);
}

TEST(WindowSampler, ShortStreams) {
  const WindowSampler exact(16, 16, 0);
  EXPECT_EQ(exact.windows_per_epoch(), 1);
  EXPECT_EQ(exact.begin(5), 0);
  const WindowSampler longer(20, 16, 0);
  for (int64_t i = 0; i < 50; ++i) EXPECT_LE(longer.begin(i), 4);
  EXPECT_THROW(WindowSampler(15, 16, 0), Error);
  EXPECT_THROW(WindowSampler(15, 0, 0), Error);
}

TEST(WindowSampler, AlignedWindowsAreRecords) {
  const WindowSampler sampler(105, 10, 3, true);
  EXPECT_EQ(sampler.windows_per_epoch(), 10);
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    std::set<int64_t> begins;
    for (int64_t i = 0; i < 10; ++i) begins.insert(sampler.begin(epoch * 10 + i));
    EXPECT_EQ(begins, (std::set<int64_t>{0, 10, 20, 30, 40, 50, 60, 70, 80, 90}));
  }
}

}  // namespace
}  // namespace lace
