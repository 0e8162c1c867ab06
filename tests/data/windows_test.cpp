#include <algorithm>
#include <random>
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

// The order is that of runs that were begun by earlier builds.
TEST(WindowSampler, TheOrderOfOnePieceIsForEver) {
  const auto begins = [](const WindowSampler& sampler, const std::vector<int64_t>& indices) {
    std::vector<int64_t> result;
    for (const int64_t i : indices) result.push_back(sampler.begin(i));
    return result;
  };
  using Begins = std::vector<int64_t>;
  const Begins text = {778, 858, 618, 558, 935, 285, 385};
  EXPECT_EQ(begins(WindowSampler(1037, 10, 7), {0, 1, 2, 101, 102, 103, 5000}), text);
  EXPECT_EQ(begins(WindowSampler(ByteStream(std::vector<uint8_t>(1037)), 10, 7),
                   {0, 1, 2, 101, 102, 103, 5000}),
            text);
  EXPECT_EQ(begins(WindowSampler(105, 10, 3, true), {0, 1, 2, 9, 10, 11, 500}),
            (Begins{80, 0, 20, 70, 40, 50, 70}));
  EXPECT_EQ(begins(WindowSampler((int64_t{1} << 60) + 5, 1024, 11), {0, 1, 500}),
            (Begins{768938408766904824, 423383488293241336, 33892418074997240}));
}

DataSplit pieces_of(const std::vector<int64_t>& sizes) {
  DataSplit split;
  for (const int64_t size : sizes)
    split.append_piece(ByteStream(std::vector<uint8_t>(static_cast<size_t>(size))));
  return split;
}

// The piece that holds all of [begin, end), or −1.
int64_t piece_around(const std::vector<int64_t>& sizes, int64_t begin, int64_t end) {
  int64_t start = 0;
  for (size_t i = 0; i < sizes.size(); start += sizes[i++])
    if (start <= begin && end <= start + sizes[i]) return static_cast<int64_t>(i);
  return -1;
}

TEST(WindowSampler, WindowsStayWithinPieces) {
  std::mt19937 random(5);
  for (int round = 0; round < 200; ++round) {
    const int64_t window = 1 + random() % 12;
    std::vector<int64_t> sizes(1 + random() % 9);
    for (int64_t& size : sizes) size = 1 + static_cast<int64_t>(random() % 60);
    sizes[random() % sizes.size()] += window;  // so that one fits
    const DataSplit split = pieces_of(sizes);
    const WindowSampler sampler(split, window, random());
    int64_t expected = 0;
    for (const int64_t size : sizes)
      if (size >= window) expected += std::max<int64_t>(1, (size - window + 1) / window);
    const int64_t count = sampler.windows_per_epoch();
    ASSERT_EQ(count, expected);
    for (int64_t epoch = 0; epoch < 3; ++epoch) {
      std::vector<int> seen(static_cast<size_t>(split.size()));
      for (int64_t i = 0; i < count; ++i) {
        const int64_t begin = sampler.begin(epoch * count + i);
        ASSERT_GE(piece_around(sizes, begin, begin + window), 0) << begin;
        for (int64_t at = begin; at < begin + window; ++at)
          ASSERT_EQ(seen[static_cast<size_t>(at)]++, 0) << "twice in an epoch: " << at;
      }
    }
  }
}

TEST(WindowSampler, PiecesHaveOffsetsOfTheirOwnAndAreMixed) {
  const std::vector<int64_t> sizes(20, 1000);
  const WindowSampler sampler(pieces_of(sizes), 100, 1);
  const int64_t count = sampler.windows_per_epoch();
  std::vector<std::set<int64_t>> offsets(20);
  std::vector<int64_t> order;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t begin = sampler.begin(i);
    offsets[static_cast<size_t>(begin / 1000)].insert(begin % 1000 % 100);
    order.push_back(begin / 1000);
  }
  std::set<int64_t> different;
  for (const auto& of_piece : offsets) {
    ASSERT_EQ(of_piece.size(), 1u);
    different.insert(*of_piece.begin());
  }
  EXPECT_GE(different.size(), 10u);
  EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
}

TEST(WindowSampler, PiecesThatAreTooShortAreNamed) {
  EXPECT_THROW(WindowSampler(DataSplit(), 4, 1), Error);
  try {
    WindowSampler(pieces_of({3, 2}), 4, 1);
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(
        error.what(),
        "[data] a window of 4 bytes fits into none of 2 pieces, of which the longest has 3");
  }
  EXPECT_EQ(WindowSampler(pieces_of({3, 2, 4, 3}), 4, 1).begin(17), 5);
}

TEST(SpreadWindows, AreEvenAndWithinPieces) {
  using Begins = std::vector<int64_t>;
  EXPECT_EQ(spread_windows(pieces_of({100}), 10, 4), (Begins{0, 20, 50, 70}));
  EXPECT_EQ(spread_windows(pieces_of({25, 9, 31}), 10, 100), (Begins{0, 10, 34, 44, 54}));
  EXPECT_EQ(spread_windows(pieces_of({25, 9, 31}), 10, 2), (Begins{0, 34}));
  EXPECT_EQ(spread_windows(pieces_of({9, 9}), 10, 2), Begins{});
  EXPECT_EQ(spread_windows(DataSplit(), 10, 2), Begins{});
}

TEST(DataSplit, KnowsItsPieces) {
  DataSplit split;
  EXPECT_EQ(split.pieces(), 0);
  split.append_piece(ByteStream());
  EXPECT_EQ(split.pieces(), 0);
  split = ByteStream(std::vector<uint8_t>(5));
  EXPECT_EQ(split.pieces(), 1);
  EXPECT_EQ(split.piece_end(0), 5);
  split.append_piece(ByteStream(std::vector<uint8_t>(3)));
  EXPECT_EQ(split.pieces(), 2);
  EXPECT_EQ(split.piece_begin(1), 5);
  EXPECT_EQ(split.piece_end(1), 8);
}

}  // namespace
}  // namespace lace
