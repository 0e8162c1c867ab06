#include "pattern/random.h"

#include <algorithm>
#include <vector>

#include <gtest/gtest.h>

#include "lace/pattern.h"

namespace lace {
namespace {

using Words = std::array<uint32_t, 4>;

// The known answers that the authors of the generator publish.
TEST(Random, PhiloxKnownAnswers) {
  EXPECT_EQ(pattern::philox({0, 0, 0, 0}, 0),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(pattern::philox({~0u, ~0u, ~0u, ~0u}, ~uint64_t{0}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(pattern::philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, DrawsDistinctBlocksAtOrBeforeTheQuery) {
  for (int64_t query_block = 0; query_block < 50; ++query_block) {
    for (const bool causal : {true, false}) {
      const auto blocks = random_blocks(7, 3, 2, query_block, 50, causal);
      EXPECT_EQ(blocks.size(),
                static_cast<size_t>(causal ? std::min<int64_t>(7, query_block + 1) : 7));
      EXPECT_TRUE(std::adjacent_find(blocks.begin(), blocks.end(), std::greater_equal<>()) ==
                  blocks.end());
      EXPECT_GE(blocks.front(), 0);
      EXPECT_LE(blocks.back(), causal ? query_block : 49);
    }
  }
}

// A causal draw must stay as it is when the sequence grows: generation depends on it.
TEST(Random, CausalDrawsDoNotDependOnTheLength) {
  for (int64_t query_block = 0; query_block < 40; ++query_block) {
    EXPECT_EQ(random_blocks(3, 9, 1, query_block, 40, true),
              random_blocks(3, 9, 1, query_block, 400, true));
  }
}

TEST(Random, DrawsDifferBySeedHeadAndBlock) {
  const auto base = random_blocks(8, 1, 0, 500, 1000, false);
  EXPECT_EQ(random_blocks(8, 1, 0, 500, 1000, false), base);
  EXPECT_NE(random_blocks(8, 2, 0, 500, 1000, false), base);
  EXPECT_NE(random_blocks(8, 1 + (uint64_t{1} << 32), 0, 500, 1000, false), base);
  EXPECT_NE(random_blocks(8, 1, 1, 500, 1000, false), base);
  EXPECT_NE(random_blocks(8, 1, 0, 501, 1000, false), base);
}

// Every block is as likely as every other: 6000 draws of 3 of 12 put 1500 into each, give or take
// five standard deviations (33.5 each).
TEST(Random, DrawsAreUniform) {
  std::vector<int> hits(12);
  for (int64_t query_block = 0; query_block < 12; ++query_block) {
    for (uint64_t seed = 0; seed < 500; ++seed) {
      for (const int64_t block : random_blocks(3, seed, 0, query_block, 12, false)) {
        ++hits[static_cast<size_t>(block)];
      }
    }
  }
  for (const int count : hits) EXPECT_NEAR(count, 1500, 168);
}

// Plans, checkpoints and recipes rely on these draws: they must never change.
TEST(Random, DrawsAreFrozen) {
  EXPECT_EQ(random_blocks(4, 7, 3, 100, 128, true), (std::vector<int64_t>{43, 47, 76, 94}));
  EXPECT_EQ(random_blocks(4, 7, 3, 100, 128, false), (std::vector<int64_t>{55, 59, 97, 120}));
}

TEST(Random, AttendsTheDrawnBlocks) {
  const int64_t n = 70, size = 6, blocks = 12;
  for (const bool causal : {true, false}) {
    const Pattern text = random(2, size, 5);
    const BoundPattern bound = (causal ? text : bidirectional(text)).bind(3, n, n);
    for (int64_t head = 0; head < 3; ++head) {
      for (int64_t i = 0; i < n; ++i) {
        const auto drawn = random_blocks(2, 5, head, i / size, blocks, causal);
        for (int64_t j = 0; j < n; ++j) {
          const bool live = std::count(drawn.begin(), drawn.end(), j / size) > 0;
          ASSERT_EQ(bound.attends(head, i, j), live && (!causal || j <= i));
        }
      }
    }
  }
}

}  // namespace
}  // namespace lace
