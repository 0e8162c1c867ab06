#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "plan/expand.h"
#include "plan/plan.h"

namespace lace::testing {
namespace {

// One head of a plan in figures, tiles counted whole: owners × others as asked, or with the others
// of each tile rounded up to 16.
struct Figures {
  size_t tiles = 0, masks = 0;
  double waste = 0, waste_16 = 0, computed = 0;
};

Figures figures_of(const Plan& plan) {
  Figures figures{plan.tiles.size(), plan.masks.size()};
  double live = 0, whole = 0, rounded = 0;
  for (const Pass& pass : plan.passes) {
    live += static_cast<double>(pass.live_pairs);
    figures.computed += static_cast<double>(pass.computed_pairs);
  }
  for (const OwnerTile& tile : plan.tiles) {
    for (int32_t r = tile.run_begin; r < tile.run_end; ++r) {
      const Run& run = plan.runs[static_cast<size_t>(r)];
      const double tiles = static_cast<double>(run.tiles) * plan.tile.owners;
      whole += tiles * plan.tile.others;
      rounded += tiles * static_cast<double>((run.others.size() + 15) / 16 * 16);
    }
  }
  figures.waste = whole / live;
  figures.waste_16 = rounded / live;
  figures.computed /= live;
  return figures;
}

struct Case {
  std::string pattern;
  int64_t n;
  TileShape tile;
  size_t tiles, masks;     // at most
  double waste, waste_16;  // at most, rounded to two places
};

void check(const Case& c, bool transposed) {
  const Plan plan = compile(Pattern::parse(c.pattern).bind(1, c.n, c.n), c.tile, transposed);
  const Figures figures = figures_of(plan);
  const std::string name = c.pattern + (transposed ? " transposed" : "");
  EXPECT_LE(figures.tiles, c.tiles) << name;
  EXPECT_LE(figures.masks, c.masks) << name;
  EXPECT_LE(figures.waste, c.waste + 0.005) << name;
  EXPECT_LE(figures.waste_16, c.waste_16 + 0.005) << name;
  EXPECT_LE(figures.computed, c.waste_16 + 0.005) << name;
}

constexpr TileShape kWide{128, 128}, kFlat{64, 128};
const std::string kLongformer = "bidirectional(local(512) | global(64))";
const std::string kBigBird =
    "bidirectional(local(3, 64) | random(3, 64, 0) | global{0..63, -64..-1})";

// The prototype's figures are the least that a plan must reach.
TEST(PlanFigures, ForwardAsThePrototypeOrBetter) {
  const std::vector<Case> cases = {
      {"block(128) | summary(128, 32)", 12288, kWide, 96, 2, 1.07, 1.04},
      {"block(128) | summary(128, 32, 1)", 12288, kWide, 96, 2, 1.07, 1.04},
      {"block(128) | summary(128, 32, 3)", 12288, kWide, 96, 2, 1.07, 1.04},
      {"block(128) | summary(128, 32)", 12288, kFlat, 192, 6, 1.07, 1.02},
      {"block(256) | summary(256, 32)", 65536, kWide, 512, 2, 1.03, 1.03},
      {"block(256) | summary(256, 32)", 65536, kFlat, 1024, 6, 1.03, 1.03},
      {"local(128) | strided(128)", 12288, kWide, 224, 3, 2.43, 2.19},
      {"local(128) | strided(128)", 12288, kFlat, 448, 6, 2.43, 1.70},
      {"local(128) | strided(128)", 65536, kWide, 1024, 3, 1.50, 1.50},
      {"local(128) | strided(128)", 65536, kFlat, 2048, 6, 1.50, 1.25},
      {"local(1024) | strided(1024)", 1048576, kWide, 16384, 3, 1.13, 1.13},
      {"local(1024) | strided(1024)", 1048576, kFlat, 32768, 6, 1.13, 1.06},
      {"block(1024) | summary(1024, 32)", 1048576, kWide, 8192, 2, 1.01, 1.01},
      {"block(1024) | summary(1024, 32)", 1048576, kFlat, 16384, 6, 1.01, 1.01},
      {"local(4096) | sinks(4)", 32768, kWide, 256, 4, 1.06, 1.03},
      {"local(4096) | sinks(4)", 32768, kFlat, 512, 6, 1.06, 1.02},
      {kLongformer, 16384, kWide, 129, 5, 1.40, 1.30},
      {kLongformer, 16384, kFlat, 257, 6, 1.29, 1.10},
      // The global rows are a tile of their own: one tile more than the prototype, less waste.
      {kBigBird, 16384, kWide, 129, 18, 1.58, 1.54},
      {kBigBird, 16384, kFlat, 258, 18, 1.32, 1.11},
      {"dilated(512, 16)", 16384, kWide, 128, 3, 1.25, 1.25},
      {"dilated(512, 16)", 16384, kFlat, 256, 6, 1.25, 1.12},
      // By residue class, where the prototype stayed in natural order with 96 tiles.
      {"local(100) & strided(7)", 12288, kWide, 98, 3, 17.0, 17.0},
      {"local(100) & strided(7)", 12288, kFlat, 196, 3, 8.75, 8.75},
      {"block(1021)", 12288, kWide, 97, 3, 1.135, 1.135},
  };
  for (const Case& c : cases) check(c, false);
}

TEST(PlanFigures, TransposedStaysDense) {
  const std::vector<Case> cases = {
      {"block(128) | summary(128, 32)", 12288, kWide, 120, 5, 1.07, 1.07},
      {"block(256) | summary(256, 32)", 65536, kWide, 576, 5, 1.03, 1.03},
      {"block(1024) | summary(1024, 32)", 1048576, kWide, 8448, 5, 1.01, 1.01},
      {"block(1024) | summary(1024, 32)", 1048576, {64, 64}, 16896, 5, 1.01, 1.01},
      {"local(128) | strided(128)", 12288, kWide, 224, 3, 2.43, 2.19},
      {"local(1024) | strided(1024)", 1048576, kWide, 16384, 3, 1.13, 1.13},
      {"local(4096) | sinks(4)", 32768, kWide, 257, 6, 1.07, 1.07},
      {kLongformer, 16384, kWide, 129, 5, 1.40, 1.30},
  };
  for (const Case& c : cases) check(c, true);
}

// Natural order keeps the pairs that strided shares with local: residue first would mask every
// tile.
TEST(PlanFigures, SharedPairsStayInTheNaturalPass) {
  const Plan plan =
      compile(Pattern::parse("local(4096) | strided(128)").bind(1, 12288, 12288), kWide, false);
  ASSERT_EQ(plan.passes.size(), 2u);
  EXPECT_EQ(plan.passes[0].order, RowOrder::kNatural);
  EXPECT_EQ(plan.passes[1].order, RowOrder::kResidue);
  int64_t masked = 0;
  for (const lace::Run& run : plan.runs) {
    for (int32_t t = 0; t < run.tiles && run.mask_cycle > 0; ++t) {
      masked += plan.mask_ids[static_cast<size_t>(run.mask_begin + t % run.mask_cycle)] >= 0;
    }
  }
  EXPECT_LE(masked, 1888);
}

// Two periods in one pattern: runs carry cycles of masks and do not grow with n.
TEST(PlanFigures, CyclesKeepRunsFew) {
  for (const char* text : {"summary(128, 32) | summary(100, 10)", "strided(31) | strided(32)"}) {
    const Plan plan = compile(Pattern::parse(text).bind(1, 262144, 262144), kWide, false);
    EXPECT_LT(static_cast<double>(plan.runs.size()), 9.0 * static_cast<double>(plan.tiles.size()))
        << text;
  }
}

// 15 to 45 ms and at most 7 MB on a quiet machine.
#ifdef __SANITIZE_ADDRESS__
constexpr double kMaxCompileMs = 20000;
#else
constexpr double kMaxCompileMs = 1000;
#endif
TEST(PlanFigures, CompilesAMillionTokensQuickly) {
  for (const char* text : {"local(1024) | strided(1024)", "block(1024) | summary(1024, 32)"}) {
    for (const TileShape tile : {TileShape{128, 128}, TileShape{64, 128}, TileShape{64, 64}}) {
      for (const bool transposed : {false, true}) {
        const Plan plan = compile(Pattern::parse(text).bind(1, 1048576, 1048576), tile, transposed);
        EXPECT_LT(plan.compile_ms, kMaxCompileMs) << text;
        EXPECT_LT(plan.size_bytes(), 64 << 20) << text;
      }
    }
  }
}

// At lengths where all pairs are too many: the pairs of some tiles of owners equal `attends`.
void check_sampled(const std::string& text, int64_t n, bool transposed) {
  const BoundPattern pattern = Pattern::parse(text).bind(1, n, n);
  const Plan plan = compile(pattern, {64, 64}, transposed);
  std::mt19937 random(7);
  for (int sample = 0; sample < 3; ++sample) {
    const int64_t owner = std::uniform_int_distribution<int64_t>(0, n - 1)(random);
    std::vector<uint8_t> counts(static_cast<size_t>(n));
    const auto holds_owner = [&](const OwnerTile& tile) {
      for (int32_t o = 0; o < tile.owners.outer; ++o) {
        const int64_t first = plan.position(tile.owners, o, 0);
        if (first <= owner && owner < first + tile.owners.inner) return true;
      }
      return false;
    };
    const auto count = [&](int32_t, int64_t row, int64_t other) {
      if (row == owner) ++counts[static_cast<size_t>(other)];
    };
    for_each_pair(plan, 0, count, holds_owner);
    int64_t wrong = 0;
    for (int64_t other = 0; other < n; ++other) {
      const bool live =
          transposed ? pattern.attends(0, other, owner) : pattern.attends(0, owner, other);
      wrong += counts[static_cast<size_t>(other)] != (live ? 1 : 0);
    }
    EXPECT_EQ(wrong, 0) << text << (transposed ? " transposed" : "") << " owner " << owner;
  }
}

TEST(PlanFigures, SampledRowsAreExactAtLength) {
  for (const bool transposed : {false, true}) {
    check_sampled("local(1024) | strided(1024)", 1048576, transposed);
    check_sampled("block(1024) | summary(1024, 32)", 1048576, transposed);
    check_sampled("block(1021) | summary(1021, 17, 3)", 100003, transposed);
    check_sampled("dilated(512, 16) | strided(31)", 65537, transposed);
    check_sampled(kLongformer, 16384, transposed);
    check_sampled(kBigBird, 16384, transposed);
  }
}

}  // namespace
}  // namespace lace::testing
