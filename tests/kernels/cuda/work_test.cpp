// How plans become the tables of the Hopper kernels: host code, no GPU needed.

#include "kernels/cuda/sm90/work.h"

#include <algorithm>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lace/pattern.h"

#include "kernels/cuda/sm90/attention_forward.h"

namespace lace::test {
namespace {

Plan plan_of(const char* text, int64_t heads, TileShape tile, bool transposed = false) {
  return compile(Pattern::parse(text).bind(heads, 3000, 3000), tile, transposed);
}

TEST(Sm90Work, QueryHeadsOfOnePatternShareItems) {
  const Plan dense = plan_of("dense", 8, {128, 128}, true);
  const sm90::Work shared = sm90::make_work(dense, 4);
  EXPECT_EQ(shared.members, 4);
  EXPECT_EQ(shared.heads, (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(shared.items * 4, sm90::make_work(dense, 1).items);
  const sm90::Work apart = sm90::make_work(plan_of("fixed(128, 32, 4)", 8, {128, 128}, true), 2);
  EXPECT_EQ(apart.members, 1);
  EXPECT_EQ(apart.heads.size(), 8u);
}

// No tiles but those whose kernel knows softcaps get a call that has one.
TEST(Sm90Work, ForwardHasTilesForWhatAQuerySees) {
  const auto best = [](const char* text, int64_t dim, bool softcap) {
    AttentionShape shape;
    shape.device = Device::kCuda;
    shape.dtype = DType::kBFloat16;
    shape.qk_dim = shape.v_dim = dim;
    shape.softcap = softcap;
    return sm90::best_forward_tile(shape, plan_of(text, 1, sm90::forward_tile(shape)));
  };
  EXPECT_EQ(best("dense", 64, false), (TileShape{192, 128}));
  EXPECT_EQ(best("local(64)", 64, false), (TileShape{128, 64}));
  for (const char* text : {"dense", "local(64)"}) {
    EXPECT_EQ(best(text, 64, true), (TileShape{128, 128})) << text;
    for (const bool softcap : {false, true}) {
      EXPECT_EQ(best(text, 128, softcap), (TileShape{128, 128})) << text;
      EXPECT_EQ(best(text, 256, softcap), (TileShape{128, 64})) << text;
    }
  }
}

TEST(Sm90Work, FirstPassHasEveryRowOnce) {
  for (const char* text : {"local(128) | strided(128)", "block(96) | summary(96, 8)",
                           "bidirectional(local(100) | global(7))"}) {
    SCOPED_TRACE(text);
    const Plan plan = plan_of(text, 1, {192, 128});
    const sm90::Work work = sm90::make_work(plan, 1);
    int64_t fresh = 0;
    for (const sm90::WorkTile& tile : work.tiles) {
      if (tile.earlier == sm90::kNone) fresh += tile.owner_count;
      EXPECT_LE(tile.owner_count, 192);
      EXPECT_LE(tile.tiles, work.longest);
    }
    EXPECT_LE(fresh, 3000);
    if (!work.several_passes) {
      EXPECT_EQ(fresh, 3000);
    }
  }
}

TEST(Sm90Work, TellsWhereEveryOtherIsInOneTile) {
  const auto sole = [](const char* text) -> bool {
    return sm90::make_work(compile(Pattern::parse(text).bind(2, 3072, 3072), {128, 128}, true), 1)
        .sole_others;
  };
  EXPECT_TRUE(sole("block(128)"));
  EXPECT_TRUE(sole("strided(128)"));
  EXPECT_FALSE(sole("block(256)"));
  EXPECT_FALSE(sole("local(128)"));
  EXPECT_FALSE(sole("local(128) | strided(128)"));
  EXPECT_FALSE(sole("heads(1*block(128), 1*dense)"));
}

// Rows of bits are those of the plan's masks, and flags say of 64 owners what they say one by one.
TEST(Sm90Work, FlagsTellOfMasks) {
  for (const TileShape tile : {TileShape{128, 64}, {128, 128}, {192, 128}}) {
    for (const char* text : {"local(128) | strided(128)", "block(128)", "local(50) | sinks(3)"}) {
      const Plan plan = plan_of(text, 1, tile);
      const sm90::Work work = sm90::make_work(plan, 1);
      ASSERT_EQ(work.mask_ids.size(), plan.mask_ids.size());
      int dead = 0, full = 0;
      for (const int32_t named : work.mask_ids) {
        if (named < 0) continue;
        const size_t m = static_cast<size_t>(named & sm90::kMaskIndex);
        const Mask& mask = plan.masks[m];
        for (int32_t group = 0; 64 * group < mask.owners; ++group) {
          int64_t live = 0, rows = 0;
          for (int32_t e = 64 * group; e < std::min(mask.owners, 64 * group + 64); ++e, ++rows) {
            for (int32_t f = 0; f < mask.others; ++f) {
              const size_t row = m * static_cast<size_t>(work.owner_rows) + static_cast<size_t>(e);
              const uint32_t bit =
                  work.mask_rows[4 * row + static_cast<size_t>(f / 32)] >> (f % 32) & 1;
              const size_t word = static_cast<size_t>(f * mask.words_per_other + e / 64);
              ASSERT_EQ(bit, mask.words[word] >> (e % 64) & 1) << text << " mask " << m;
              live += bit;
            }
          }
          EXPECT_EQ((named & sm90::kDeadRows << group) != 0, live == 0) << text << " mask " << m;
          EXPECT_EQ((named & sm90::kFullRows << group) != 0, live == rows * mask.others) << text;
          dead += live == 0;
          full += live == rows * mask.others;
        }
      }
      if (tile.others > 64) continue;
      EXPECT_GT(dead, 0) << text;
      if (std::string(text) == "local(128) | strided(128)") {
        EXPECT_GT(full, 0);
      }
    }
  }
}

TEST(Sm90Order, EveryItemOnceWhatIsWaitedForFirstAndLongItemsBeforeShortOnes) {
  for (const char* text :
       {"dense", "fixed(128, 32, 4)", "heads(3*local(64), 1*block(128) | summary(128, 32))",
        "bidirectional(heads(1*dense, 3*local(100) | global(7) | strided(64)))"}) {
    const sm90::Work work = sm90::make_work(plan_of(text, 4, {128, 128}, true), 1);
    for (const int64_t batch : {1, 3}) {
      for (const int64_t section : {1, 3, 4, 5, 12}) {
        SCOPED_TRACE(testing::Message() << text << ", batch " << batch << " by " << section);
        const auto order = sm90::order_items(work, batch, section);
        ASSERT_EQ(static_cast<int64_t>(order.size()), work.items * batch);
        // Of each head what came so far: its tiles, and how many have been counted.
        std::vector<std::vector<bool>> seen(static_cast<size_t>(4 * batch),
                                            std::vector<bool>(work.tiles.size()));
        std::vector<int32_t> counted(static_cast<size_t>(4 * batch));
        for (size_t i = 0; i < order.size(); ++i) {
          const sm90::WorkTile& tile = work.tiles[static_cast<size_t>(order[i].tile)];
          const auto head = static_cast<size_t>(order[i].head);
          ASSERT_FALSE(seen[head][static_cast<size_t>(order[i].tile)]);
          seen[head][static_cast<size_t>(order[i].tile)] = true;
          ASSERT_GE(counted[head], tile.wait);
          counted[head] += tile.count;
          if (section < 4 * batch || i == 0) continue;
          const sm90::WorkTile& before = work.tiles[static_cast<size_t>(order[i - 1].tile)];
          if (before.count == tile.count && (tile.count == 0 || before.pass == tile.pass)) {
            ASSERT_GE(before.tiles, tile.tiles);
          }
        }
        for (const sm90::WorkGroup& group : work.groups) {
          for (int32_t t = 0; t < group.tiles; ++t) {
            for (int32_t h = 0; h < group.heads; ++h) {
              const auto head =
                  static_cast<size_t>(work.heads[static_cast<size_t>(group.head_begin + h)]);
              EXPECT_TRUE(seen[head][static_cast<size_t>(group.tile_begin + t)]);
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace lace::test
