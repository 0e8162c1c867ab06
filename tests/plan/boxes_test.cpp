// Plans written out as boxes of strided loads: what docs/design.md, "Plans as boxes of strided
// loads", says of them is checked here.

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "lace/error.h"

#include "plan/plan.h"

namespace lace {
namespace {

std::string box(int64_t first, int64_t inner, int64_t outer = 1, int64_t stride = 0) {
  return concat("{", first, " ", inner, " ", outer, " ", stride, "}");
}

std::string box(const IndexSet& set) {
  EXPECT_LT(set.offsets, 0);
  return box(set.first, set.inner, set.outer, set.outer_stride);
}

std::string run(const std::string& others, int64_t tiles, int64_t step, const std::string& masks) {
  return concat(" ", others, " x", tiles, " +", step, " ", masks);
}

// The tiles of a pass, one text each, by the first owner.
std::vector<std::string> tiles_of(const Plan& plan, const Pass& pass) {
  std::vector<std::pair<int64_t, std::string>> tiles;
  for (int32_t t = pass.tile_begin; t < pass.tile_end; ++t) {
    const OwnerTile& tile = plan.tiles[static_cast<size_t>(t)];
    std::string text = box(tile.owners) + ":";
    for (int32_t r = tile.run_begin; r < tile.run_end; ++r) {
      const Run& part = plan.runs[static_cast<size_t>(r)];
      std::string masks = part.mask_cycle == 0 ? "full" : "";
      for (int32_t c = 0; c < part.mask_cycle; ++c) {
        masks += concat("m", plan.mask_ids[static_cast<size_t>(part.mask_begin + c)]);
      }
      text += run(box(part.others), part.tiles, part.step, masks);
    }
    tiles.emplace_back(tile.owners.first, text);
  }
  std::sort(tiles.begin(), tiles.end());
  std::vector<std::string> texts;
  for (auto& [first, text] : tiles) texts.push_back(std::move(text));
  return texts;
}

Plan plan_of(const Pattern& pattern, bool transposed) {
  return compile(pattern.bind(1, 12288, 12288), {128, 128}, transposed);
}

// Bit (e, f) of a mask as `live` says, for all of a 128 × 128 tile.
void expect_mask(const Plan& plan, size_t id, bool (*live)(int e, int f)) {
  ASSERT_LT(id, plan.masks.size());
  const Mask& mask = plan.masks[id];
  ASSERT_EQ(mask.owners, 128);
  ASSERT_EQ(mask.others, 128);
  for (int f = 0; f < 128; ++f) {
    for (int e = 0; e < 128; ++e) {
      const uint64_t word = mask.words[static_cast<size_t>(f * mask.words_per_other + e / 64)];
      ASSERT_EQ((word >> (e % 64) & 1) != 0, live(e, f)) << "mask " << id << " " << e << " " << f;
    }
  }
}

TEST(PlanBoxes, FixedForward) {
  for (int64_t stripe = 0; stripe < 4; ++stripe) {
    const Plan plan = plan_of(block(128) | summary(128, 32, stripe), false);
    std::vector<std::string> expected;
    for (int64_t k = 0; k < 96; ++k) {
      const int64_t column = 96 - 32 * stripe, whole = k / 4, rest = k % 4;
      std::string text = box(128 * k, 128) + ":";
      if (whole > 0) text += run(box(column, 32, 4, 128), whole, whole > 1 ? 512 : 0, "full");
      if (rest > 0) {
        text += run(box(column + 512 * whole, 32, rest, rest > 1 ? 128 : 0), 1, 0, "full");
      }
      expected.push_back(text + run(box(128 * k, 128), 1, 0, "m0"));
    }
    ASSERT_EQ(plan.passes.size(), 1u);
    EXPECT_EQ(tiles_of(plan, plan.passes[0]), expected);
    EXPECT_EQ(plan.masks.size(), 1u);
    expect_mask(plan, 0, [](int e, int f) { return f <= e; });
  }
}

TEST(PlanBoxes, FixedTransposed) {
  for (int64_t stripe = 0; stripe < 4; ++stripe) {
    const Plan plan = plan_of(block(128) | summary(128, 32, stripe), true);
    std::vector<std::string> blocks, columns;
    for (int64_t k = 0; k < 96; ++k) {
      blocks.push_back(box(128 * k, 128) + ":" + run(box(128 * k, 128), 1, 0, "m0"));
    }
    for (int64_t q = 0; q < 24; ++q) {
      std::string text = box(512 * q + 96 - 32 * stripe, 32, 4, 128) + ":" +
                         run(box(512 * q + 128, 128), 3, 128, "m1m2m3");
      if (q < 23) text += run(box(512 * q + 512, 128), 92 - 4 * q, 128, "full");
      columns.push_back(text);
    }
    ASSERT_EQ(plan.passes.size(), 2u);
    EXPECT_EQ(plan.passes[0].order, RowOrder::kNatural);
    EXPECT_EQ(plan.passes[1].order, RowOrder::kColumns);
    EXPECT_EQ(tiles_of(plan, plan.passes[0]), blocks);
    EXPECT_EQ(tiles_of(plan, plan.passes[1]), columns);
    EXPECT_EQ(plan.masks.size(), 4u);
    expect_mask(plan, 0, [](int e, int f) { return f >= e; });
    expect_mask(plan, 1, [](int e, int) { return e < 32; });
    expect_mask(plan, 2, [](int e, int) { return e < 64; });
    expect_mask(plan, 3, [](int e, int) { return e < 96; });
  }
}

TEST(PlanBoxes, StridedForward) {
  const Plan plan = plan_of(local(128) | strided(128), false);
  std::vector<std::string> windows, classes;
  for (int64_t k = 0; k < 96; ++k) {
    windows.push_back(box(128 * k, 128) + ":" +
                      (k == 0 ? run(box(0, 128), 1, 0, "m0")
                              : run(box(128 * k - 127, 128), 1, 0, "m1") +
                                    run(box(128 * k + 1, 127), 1, 0, "m2")));
  }
  for (int64_t r = 0; r < 128; ++r) {
    classes.push_back(box(r, 1, 96, 128) + ":" + run(box(r, 1, 95, 128), 1, 0, "m2"));
  }
  ASSERT_EQ(plan.passes.size(), 2u);
  EXPECT_EQ(plan.passes[1].order, RowOrder::kResidue);
  EXPECT_EQ(tiles_of(plan, plan.passes[0]), windows);
  EXPECT_EQ(tiles_of(plan, plan.passes[1]), classes);
  EXPECT_EQ(plan.masks.size(), 3u);
  expect_mask(plan, 0, [](int e, int f) { return f <= e; });
  expect_mask(plan, 1, [](int e, int f) { return f >= e; });
  expect_mask(plan, 2, [](int e, int f) { return f < e; });
}

TEST(PlanBoxes, StridedTransposed) {
  const Plan plan = plan_of(local(128) | strided(128), true);
  std::vector<std::string> windows, classes;
  for (int64_t k = 0; k < 96; ++k) {
    std::string text = box(128 * k, 128) + ":" + run(box(128 * k, 128), 1, 0, "m0");
    if (k < 95) text += run(box(128 * k + 128, 127), 1, 0, "m1");
    windows.push_back(text);
  }
  for (int64_t r = 0; r < 128; ++r) {
    classes.push_back(box(r, 1, 96, 128) + ":" + run(box(r + 128, 1, 95, 128), 1, 0, "m0"));
  }
  ASSERT_EQ(plan.passes.size(), 2u);
  EXPECT_EQ(tiles_of(plan, plan.passes[0]), windows);
  EXPECT_EQ(tiles_of(plan, plan.passes[1]), classes);
  EXPECT_EQ(plan.masks.size(), 2u);
  expect_mask(plan, 0, [](int e, int f) { return f >= e; });
  expect_mask(plan, 1, [](int e, int f) { return f < e; });
}

// Alone, block and strided are each one pass of one mask.
TEST(PlanBoxes, PartsAlone) {
  for (const bool transposed : {false, true}) {
    const Plan blocks = plan_of(block(128), transposed);
    const Plan classes = plan_of(strided(128), transposed);
    for (const Plan* plan : {&blocks, &classes}) {
      ASSERT_EQ(plan->passes.size(), 1u);
      EXPECT_EQ(plan->masks.size(), 1u);
    }
    const auto block_tiles = tiles_of(blocks, blocks.passes[0]);
    const auto class_tiles = tiles_of(classes, classes.passes[0]);
    ASSERT_EQ(block_tiles.size(), 96u);
    ASSERT_EQ(class_tiles.size(), 128u);
    for (int64_t k = 0; k < 96; ++k) {
      EXPECT_EQ(block_tiles[static_cast<size_t>(k)],
                box(128 * k, 128) + ":" + run(box(128 * k, 128), 1, 0, "m0"));
    }
    for (int64_t r = 0; r < 128; ++r) {
      EXPECT_EQ(class_tiles[static_cast<size_t>(r)],
                box(r, 1, 96, 128) + ":" + run(box(r, 1, 96, 128), 1, 0, "m0"));
    }
  }
}

}  // namespace
}  // namespace lace
