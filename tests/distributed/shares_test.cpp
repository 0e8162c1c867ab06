#include "distributed/shares.h"

#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "lace/error.h"

namespace lace::distributed {
namespace {

// (index, window) of every window of a step, in the order of ranks and micro-batches.
std::vector<std::pair<int64_t, int64_t>> step(int64_t batch, int64_t accumulate, int size,
                                              int64_t taken) {
  std::vector<std::pair<int64_t, int64_t>> all;
  for (int rank = 0; rank < size; ++rank) {
    const StepShares shares(batch, accumulate, rank, size);
    for (int64_t i = 0; i < accumulate; ++i) {
      const MicroBatch m = shares.micro_batch(taken, i);
      for (int64_t b = 0; b < batch; ++b) all.emplace_back(m.index, m.first_window + b);
    }
  }
  return all;
}

TEST(StepShares, RanksTakeTheStepsOfOneRankThatAccumulatesMore) {
  for (const int64_t batch : {1, 3}) {
    for (const int64_t accumulate : {1, 2, 5}) {
      for (const int size : {1, 2, 3, 8}) {
        EXPECT_EQ(step(batch, accumulate, size, 700), step(batch, accumulate * size, 1, 700));
        EXPECT_EQ(StepShares(batch, accumulate, 0, size).windows(), batch * accumulate * size);
        EXPECT_EQ(StepShares(batch, accumulate, 0, size).micro_batches(), accumulate * size);
      }
    }
  }
}

TEST(StepShares, EachWindowOfARunIsTakenOnce) {
  const StepShares shares(3, 2, 0, 4);
  std::set<int64_t> seen;
  for (int64_t s = 0; s < 5; ++s) {
    for (const auto& [index, window] : step(3, 2, 4, s * shares.windows()))
      EXPECT_TRUE(seen.insert(window).second) << window;
  }
  EXPECT_EQ(seen.size(), 120u);
  EXPECT_EQ(*seen.rbegin(), 119);
}

TEST(StepShares, WrongSharesAreErrors) {
  EXPECT_THROW(StepShares(0, 1), Error);
  EXPECT_THROW(StepShares(1, 0), Error);
  EXPECT_THROW(StepShares(1, 1, 2, 2), Error);
  EXPECT_THROW(StepShares(1, 1, -1, 2), Error);
  EXPECT_THROW(StepShares(1, 2).micro_batch(0, 2), Error);
  EXPECT_THROW(StepShares(1, 2).micro_batch(0, -1), Error);
}

TEST(StateRange, CoversTheArenaInAlignedRanges) {
  for (const int64_t elements : {0, 1, 63, 64, 65, 128, 1000, 94951936, 94951937}) {
    for (const int size : {1, 2, 3, 7, 8, 64}) {
      const int64_t share = elements / size / kStateAlignment * kStateAlignment;
      int64_t end = 0;
      for (int rank = 0; rank < size; ++rank) {
        const Range range = state_range(elements, rank, size);
        EXPECT_EQ(range.begin, end);
        EXPECT_EQ(range.begin % kStateAlignment, 0);
        EXPECT_GE(range.end - range.begin, share);
        if (rank + 1 < size) {
          EXPECT_EQ(range.end - range.begin, share);
        }
        end = range.end;
      }
      EXPECT_EQ(end, elements);
      EXPECT_LT(elements - size * share, size * kStateAlignment) << elements << " " << size;
    }
  }
}

TEST(StateRange, WrongRanksAreErrors) {
  EXPECT_THROW(state_range(10, 2, 2), Error);
  EXPECT_THROW(state_range(10, -1, 2), Error);
  EXPECT_THROW(state_range(-1, 0, 1), Error);
}

}  // namespace
}  // namespace lace::distributed
