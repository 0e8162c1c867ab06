// The lists of live tiles that the Hopper kernels are given (live_tiles.cuh), made by the kernels
// themselves, emulated, against what every pair of the plan says.

#include <algorithm>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <vector_functions.h>

#include <gtest/gtest.h>

#include "lace/pattern.h"

#include "kernels/cuda/emulation/emulation.h"  // first
#include "kernels/cuda/sm90/live_tiles.cuh"

namespace lace::sm90 {
namespace {

using Pairs = std::set<std::pair<int32_t, int32_t>>;

// What lists are made for.
struct Listing {
  Work work;
  LivePlaces places{};
  std::vector<bool> drawn{};
  std::unique_ptr<bool[]> live{};
  LiveLaunch launch{};
  std::vector<WorkTile> listed{}, tiles{};
  std::vector<WorkRun> runs{};
  std::vector<int32_t> mask_ids{};
  std::vector<uint4> mask_rows{};

  Listing(const Plan& plan, bool heads_apart, int32_t size, int32_t first_query, int64_t missing,
          double share, uint32_t seed)
      : work(make_work(plan, 1, heads_apart)) {
    const int64_t positions = plan.transposed ? plan.owner_len : plan.other_len;
    const auto blocks = static_cast<int32_t>((positions + size - 1) / size - missing);
    const int32_t heads = heads_apart ? static_cast<int32_t>(plan.heads) : 1;
    const int64_t count = int64_t{heads} * blocks * blocks;
    live = std::make_unique<bool[]>(static_cast<size_t>(count));
    std::mt19937 random(seed);
    std::bernoulli_distribution is_live(share);
    for (int64_t i = 0; i < count; ++i) live[static_cast<size_t>(i)] = is_live(random);
    launch.blocks = {live.get(), heads, blocks, size, first_query};
    launch.by_keys = plan.transposed;
    launch.owners = side_of(plan, launch.blocks, true);
    launch.others = side_of(plan, launch.blocks, false);
    places = live_places(work, launch.owners, launch.others, heads_apart);
    launch.work.tiles = work.tiles.data();
    launch.work.runs = work.runs.data();
    launch.work.mask_ids = work.mask_ids.data();
    launch.work.mask_rows = work.mask_rows.data();
    launch.work.offsets = work.offsets.data();
    launch.sources = places.sources.data();
    launch.passes = work.passes.data();
    launch.tile_count = static_cast<int32_t>(work.tiles.size());
    launch.pass_count = static_cast<int32_t>(work.passes.size());
    launch.owner_rows = work.owner_rows;
    launch.mask_count =
        static_cast<int32_t>(work.mask_rows.size() / static_cast<size_t>(4 * work.owner_rows));
  }

  // By the kernels, each block in a launch of its own: they have nothing to do with each other.
  void list(uint32_t seed) {
    listed.resize(work.tiles.size());
    tiles.resize(work.tiles.size());
    runs.resize(static_cast<size_t>(places.runs));
    mask_ids.assign(static_cast<size_t>(places.mask_ids), -12345);
    mask_rows.assign(static_cast<size_t>((launch.mask_count + places.masks) * launch.owner_rows),
                     make_uint4(0x55555555, 0x55555555, 0x55555555, 0x55555555));
    launch.listed = listed.data();
    launch.tiles = tiles.data();
    launch.runs = runs.data();
    launch.mask_ids = mask_ids.data();
    launch.mask_rows = reinterpret_cast<uint32_t*>(mask_rows.data());
    ASSERT_TRUE(emulation::launch(launch.tile_count, kListThreads, sizeof(ListMemory), seed, [&] {
      list_tiles(launch, *reinterpret_cast<ListMemory*>(emulation::current->block->shared));
    }));
    ASSERT_TRUE(emulation::launch(launch.pass_count, kSortThreads, kSizeClasses * 4, seed, [&] {
      using Places = int32_t[kSizeClasses];
      sort_tiles(launch, *reinterpret_cast<Places*>(emulation::current->block->shared));
    }));
  }

  bool in_live_block(int32_t head, int32_t owner, int32_t other) const {
    return live_grid(launch, launch.blocks.heads > 1 ? head : 0)
        .is_live(launch.owners.block_of(owner), launch.others.block_of(other));
  }

  // The pairs of a tile's runs, each of which is there once, and of whose tiles the names of masks
  // are right. tables: of the plan, or those that were listed.
  Pairs pairs_of(const WorkTile& tile, const WorkTables& tables) const {
    Pairs pairs;
    int32_t count = 0;
    for (int32_t r = tile.run_begin; r < tile.run_end; ++r) {
      const WorkRun& run = r == tile.run_begin ? tile.first_run : tables.runs[r];
      EXPECT_GT(run.tiles, 0);
      count += run.tiles;
      for (int32_t t = 0; t < run.tiles; ++t) add_tile(tile, run, t, tables, pairs);
    }
    EXPECT_EQ(count, tile.tiles);
    return pairs;
  }
  void add_tile(const WorkTile& tile, const WorkRun& run, int32_t t, const WorkTables& tables,
                Pairs& pairs) const {
    const int32_t mask = mask_of(tables, run, t);
    ASSERT_GE(mask, -1);
    const int32_t others = run.others.inner * run.others.outer;
    for (int32_t e = 0; e < tile.owners.inner * tile.owners.outer; ++e) {
      const int32_t owner = position_in(tile.owners, tables.offsets, e);
      if (owner >= launch.owners.length) break;
      const uint32_t* row =
          mask < 0 ? nullptr : tables.mask_rows + 4 * ((mask & kMaskIndex) * launch.owner_rows + e);
      for (int32_t f = 0; f < others; ++f) {
        const int32_t other = position_in(run.others, tables.offsets, f) + t * run.step;
        if (other >= launch.others.length) break;
        const bool is_one = row == nullptr || (row[f / 32] >> (f % 32) & 1) != 0;
        ASSERT_FALSE(mask >= 0 && is_one && (mask & kDeadRows << (e / 64)) != 0);
        ASSERT_FALSE(mask >= 0 && !is_one && (mask & kFullRows << (e / 64)) != 0);
        ASSERT_TRUE(!is_one || pairs.insert({owner, other}).second) << "a pair twice";
      }
    }
  }

  void check() const {
    WorkTables made = launch.work;
    made.runs = runs.data();
    made.mask_ids = mask_ids.data();
    made.mask_rows = launch.mask_rows;
    for (const WorkGroup& group : work.groups) {
      const int32_t head = work.heads[static_cast<size_t>(group.head_begin)];
      for (int32_t p = group.pass_begin; p < group.pass_end; ++p) {
        const WorkPass& pass = work.passes[static_cast<size_t>(p)];
        // By what tells tiles of a pass apart.
        std::set<std::tuple<int32_t, int32_t>> seen;
        int32_t largest = kSizeClasses;
        for (int32_t i = pass.tile_begin; i < pass.tile_end; ++i) {
          const WorkTile& tile = tiles[static_cast<size_t>(i)];
          ASSERT_LE(size_class(tile.tiles), largest);
          largest = size_class(tile.tiles);
          const auto same = [&](const WorkTile& of) {
            return of.owners.first == tile.owners.first && of.pass_index == p;
          };
          const auto source = std::find_if(work.tiles.begin() + pass.tile_begin,
                                           work.tiles.begin() + pass.tile_end, same);
          ASSERT_NE(source, work.tiles.begin() + pass.tile_end);
          ASSERT_TRUE(seen.insert({tile.owners.first, tile.owners.inner}).second);
          ASSERT_EQ(tile.earlier, source->earlier);
          ASSERT_EQ(tile.later_bits, source->later_bits);
          ASSERT_EQ(tile.wait, source->wait);
          ASSERT_EQ(tile.count, source->count);
          ASSERT_EQ(tile.owner_count, source->owner_count);
          Pairs want;
          for (const auto& [owner, other] : pairs_of(*source, launch.work)) {
            if (in_live_block(head, owner, other)) want.insert({owner, other});
          }
          ASSERT_EQ(pairs_of(tile, made), want);
          ASSERT_TRUE(!want.empty() || tile.tiles == 0) << "tiles without a live pair";
        }
      }
    }
  }
};

TEST(EmulatedLiveTiles, HaveThePairsOfThePlanThatAreInLiveBlocks) {
  uint32_t seed = 1;
  for (const char* text :
       {"dense", "bidirectional(dense)", "local(100) | sinks(3)", "local(64) | strided(64)",
        "block(96) | summary(96, 8)", "random(2, 32, 5) | local(32)",
        "heads(1*local(64) | strided(64), 1*block(128) | summary(128, 32))"}) {
    for (const int32_t size : {1, 16, 24, 64, 100, 128}) {
      const bool transposed = seed % 2 == 0, apart = seed % 3 == 0, fewer = seed % 5 < 2;
      const int64_t k_len = 330, q_len = fewer ? 197 : 330;
      SCOPED_TRACE(testing::Message() << text << ", blocks of " << size << ", " << q_len
                                      << " queries" << (transposed ? ", transposed" : ""));
      const Plan plan =
          compile(Pattern::parse(text).bind(2, q_len, k_len),
                  seed % 4 == 1 ? TileShape{192, 128} : TileShape{128, 64}, transposed);
      Listing listing(plan, apart, size, static_cast<int32_t>(k_len - q_len), seed % 7 == 0 ? 1 : 0,
                      seed % 3 == 1 ? 0.1 : 0.5, seed);
      listing.list(seed);
      listing.check();
      if (HasFatalFailure()) return;
      ++seed;
    }
  }
}

// More tiles of others than a block looks at together.
TEST(EmulatedLiveTiles, OfLongRuns) {
  for (const int32_t size : {64, 100}) {
    const Plan plan = compile(Pattern::parse("dense").bind(1, 60, 64 * 600), {128, 64}, false);
    Listing listing(plan, false, size, 64 * 600 - 60, 0, 0.4, 3);
    listing.list(1);
    listing.check();
    EXPECT_GT(listing.tiles[0].tiles, kListThreads / 2);
  }
}

}  // namespace
}  // namespace lace::sm90
