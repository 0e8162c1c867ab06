// Which tiles of a plan have live blocks: the functions that the Hopper kernels call, on the host,
// against what a look at every pair says.

#include "kernels/cuda/sm90/live_tiles.h"

#include <algorithm>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "lace/pattern.h"

#include "kernels/cuda/sm90/attention_forward.h"

namespace lace::test {
namespace {

using sm90::BlockSide;
using sm90::Live;
using sm90::Work;
using sm90::WorkRun;
using sm90::WorkTile;

const char* const kPatterns[] = {
    "dense",
    "bidirectional(dense)",
    "local(100) | sinks(3)",
    "block(96) | summary(96, 8)",
    "local(64) | strided(64)",
    "bidirectional(local(100) | global(7))",
    "random(2, 32, 5) | local(32)",
    "heads(1*local(64) | strided(64), 2*block(128) | summary(128, 32), 1*dense)",
};

// Blocks drawn for `heads` heads, of which `share` are live.
class Mask {
 public:
  Mask(int64_t heads, int32_t blocks, double share, uint64_t seed)
      : live_(std::make_unique<bool[]>(static_cast<size_t>(heads * blocks * blocks))),
        blocks_(blocks) {
    std::mt19937_64 generator(seed);
    std::bernoulli_distribution is_live(share);
    for (int64_t i = 0; i < heads * blocks * blocks; ++i) {
      live_[static_cast<size_t>(i)] = is_live(generator);
    }
  }
  const bool* live() const { return live_.get(); }
  int32_t blocks() const { return blocks_; }
  bool is_live(int32_t head, int32_t query, int32_t key) const {
    if (query >= blocks_ || key >= blocks_) return false;
    return live_[static_cast<size_t>((head * blocks_ + query) * blocks_ + key)];
  }

 private:
  std::unique_ptr<bool[]> live_;
  int32_t blocks_;
};

// A work, and its tables as if they were on the GPU.
struct Listing {
  Work work;
  sm90::WorkTables tables{};
  sm90::LiveLaunch launch{};
  sm90::LivePlaces places{};

  Listing(const Plan& plan, bool heads_apart, const Mask& mask, int32_t size, int32_t first_query)
      : work(sm90::make_work(plan, 1, heads_apart)) {
    tables.tiles = work.tiles.data();
    tables.runs = work.runs.data();
    tables.mask_ids = work.mask_ids.data();
    tables.mask_rows = work.mask_rows.data();
    tables.offsets = work.offsets.data();
    launch.work = tables;
    launch.by_keys = plan.transposed;
    launch.blocks = {mask.live(), heads_apart ? static_cast<int32_t>(plan.heads) : 1, mask.blocks(),
                     size, first_query};
    launch.owners = {plan.transposed ? 0 : first_query, size, static_cast<int32_t>(plan.owner_len)};
    launch.others = {plan.transposed ? first_query : 0, size, static_cast<int32_t>(plan.other_len)};
    const BlockSide owners = sm90::side_of(plan, launch.blocks, true);
    const BlockSide others = sm90::side_of(plan, launch.blocks, false);
    EXPECT_EQ(owners.first, launch.owners.first);
    EXPECT_EQ(others.first, launch.others.first);
    EXPECT_EQ(owners.length, launch.owners.length);
    EXPECT_EQ(others.length, launch.others.length);
    places = sm90::live_places(work, launch.owners, launch.others, heads_apart);
  }

  // Of element f of tile t of a run with an owner's position.
  bool is_live(const Mask& mask, int32_t head, int32_t owner, int32_t other) const {
    const int32_t a = launch.owners.block_of(owner), b = launch.others.block_of(other);
    return launch.by_keys ? mask.is_live(head, b, a) : mask.is_live(head, a, b);
  }

  // visit(element, position) for those of a set that there are.
  template <typename Visit>
  void each(const sm90::WorkSet& set, int32_t shift, int32_t length, const Visit& visit) const {
    for (int32_t e = 0; e < set.inner * set.outer; ++e) {
      const int32_t position = sm90::position_in(set, tables.offsets, e) + shift;
      if (position < length) visit(e, position);
    }
  }

  // What is known of tile t of `run`, and the masks of its rows, against every pair.
  void check_tile(const Mask& mask, int32_t head, const WorkTile& tile, const WorkRun& run,
                  int32_t t) const {
    const sm90::LiveGrid grid = sm90::live_grid(launch, launch.blocks.heads > 1 ? head : 0);
    const int32_t of_mask = launch.blocks.heads > 1 ? head : 0;
    const int32_t shift = t * run.step;
    int live = 0, pairs = 0;
    each(tile.owners, 0, launch.owners.length, [&](int32_t, int32_t owner) {
      const sm90::OtherBits bits =
          sm90::live_others(grid, owner, run.others, tables.offsets, shift);
      sm90::OtherBits want;
      each(run.others, shift, launch.others.length, [&](int32_t f, int32_t other) {
        const bool is_one = is_live(mask, of_mask, owner, other);
        if (is_one) want.add(f, f + 1);
        live += is_one ? 1 : 0;
        ++pairs;
      });
      ASSERT_TRUE(std::equal(std::begin(bits.words), std::end(bits.words), std::begin(want.words)));
    });
    const Live found =
        sm90::live_pairs(grid, sm90::blocks_of(tile.owners, tables.offsets, 0, launch.owners),
                         sm90::blocks_of(run.others, tables.offsets, shift, launch.others));
    ASSERT_TRUE(found != Live::kNone || live == 0);
    ASSERT_TRUE(found != Live::kAll || live == pairs);
    const bool may_be_cut = sm90::may_be_cut(tile.owners, tables.offsets, launch.owners) ||
                            sm90::may_be_cut(run, tables.offsets, launch.others);
    ASSERT_TRUE(found != Live::kSome || may_be_cut);
    // Where neither is cut there is but one block.
    ASSERT_TRUE(may_be_cut || live == 0 || live == pairs);
  }

  void check(const Mask& mask) const {
    ASSERT_EQ(places.sources.size(), work.tiles.size());
    for (const sm90::WorkGroup& group : work.groups) {
      for (int32_t t = group.tile_begin; t < group.tile_begin + group.tiles; ++t) {
        const WorkTile& tile = work.tiles[static_cast<size_t>(t)];
        int32_t tiles = 0, runs = 0, cut = 0;
        for (int32_t r = tile.run_begin; r < tile.run_end; ++r) {
          const WorkRun& run = work.runs[static_cast<size_t>(r)];
          bool some = sm90::may_be_cut(tile.owners, tables.offsets, launch.owners);
          some |= sm90::may_be_cut(run, tables.offsets, launch.others);
          tiles += run.tiles, runs += (run.tiles + 1) / 2, cut += some ? run.tiles : 0;
          for (int32_t i = 0; i < run.tiles; ++i) {
            check_tile(mask, work.heads[static_cast<size_t>(group.head_begin)], tile, run, i);
            if (testing::Test::HasFatalFailure()) return;
          }
        }
        const sm90::LiveSource& own = places.sources[static_cast<size_t>(t)];
        ASSERT_EQ(own.head,
                  launch.blocks.heads > 1 ? work.heads[static_cast<size_t>(group.head_begin)] : 0);
        const bool is_last = static_cast<size_t>(t) + 1 == places.sources.size();
        const sm90::LiveSource end = is_last
                                         ? sm90::LiveSource{static_cast<int32_t>(places.mask_ids),
                                                            static_cast<int32_t>(places.runs),
                                                            static_cast<int32_t>(places.masks), 0}
                                         : places.sources[static_cast<size_t>(t) + 1];
        ASSERT_EQ(end.mask_id - own.mask_id, tiles);
        ASSERT_EQ(end.run - own.run, runs);
        ASSERT_EQ(end.mask - own.mask, cut);
      }
    }
  }
};

Plan plan_of(const std::string& text, int64_t heads, int64_t q_len, int64_t k_len, TileShape tile,
             bool transposed) {
  return compile(Pattern::parse(text).bind(heads, q_len, k_len), tile, transposed);
}

TEST(Sm90LiveTiles, TellWhichPairsOfATileAreInLiveBlocks) {
  uint64_t seed = 1;
  for (const char* text : kPatterns) {
    for (const int32_t size : {1, 16, 24, 64, 100, 128, 256, 1 << 30}) {
      for (const bool transposed : {false, true}) {
        const int64_t k_len = 395, q_len = seed % 3 == 0 ? 395 : 267;
        SCOPED_TRACE(testing::Message() << text << ", blocks of " << size << ", " << q_len
                                        << (transposed ? " queries, transposed" : " queries"));
        const int64_t full = (k_len + size - 1) / size;
        const auto blocks = static_cast<int32_t>(full > 2 && seed % 4 == 0 ? full - 1 : full);
        const Mask mask(4, blocks, seed % 5 == 0 ? 0.95 : 0.5, seed);
        const TileShape tile =
            transposed || seed % 2 == 0 ? TileShape{128, 128} : TileShape{192, 64};
        const Plan plan = plan_of(text, 4, q_len, k_len, tile, transposed);
        Listing(plan, seed % 2 == 0, mask, size, static_cast<int32_t>(k_len - q_len)).check(mask);
        if (HasFatalFailure()) return;
        ++seed;
      }
    }
  }
}

// Whole tiles of whole blocks take no masks, whatever is live.
TEST(Sm90LiveTiles, BlocksOfTilesAreNeverCut) {
  for (const char* text : {"dense", "bidirectional(dense)", "block(256)"}) {
    for (const bool transposed : {false, true}) {
      for (const int32_t size : {128, 256, 1024}) {
        const Plan plan = plan_of(text, 2, 1000, 1000, {128, 128}, transposed);
        const Mask mask(2, 1024 / size, 0.5, 3);
        const Listing listing(plan, true, mask, size, 0);
        EXPECT_EQ(listing.places.masks, 0) << text << ' ' << size;
        EXPECT_GT(listing.places.mask_ids, 0);
      }
    }
  }
  const Plan plan = plan_of("dense", 1, 1000, 1000, {128, 128}, false);
  EXPECT_EQ(Listing(plan, false, Mask(1, 16, 0.5, 3), 64, 0).places.masks, 8 * 9 / 2);
}

// A part of a run has its tiles, and its masks are those named.
TEST(Sm90LiveTiles, PartsOfRunsAreTheirTiles) {
  for (const char* text : kPatterns) {
    const Plan plan = plan_of(text, 4, 700, 700, {128, 128}, false);
    const Work work = sm90::make_work(plan, 1);
    sm90::WorkTables tables;
    tables.mask_ids = work.mask_ids.data();
    const int32_t* offsets = work.offsets.data();
    for (const WorkRun& run : work.runs) {
      for (int32_t begin = 0; begin < run.tiles; ++begin) {
        for (int32_t end = begin + 1; end <= run.tiles; ++end) {
          std::vector<int32_t> ids;
          bool masked = false;
          for (int32_t t = begin; t < end; ++t) {
            ids.push_back(sm90::mask_of(tables, run, t));
            masked |= ids.back() >= 0;
          }
          const WorkRun part = sm90::part_of(run, begin, end - begin, masked, ids[0], 0);
          sm90::WorkTables own;
          own.mask_ids = ids.data();
          ASSERT_EQ(part.tiles, end - begin);
          for (int32_t t = 0; t < part.tiles; ++t) {
            ASSERT_EQ(sm90::mask_of(own, part, t), ids[static_cast<size_t>(t)]);
            for (int32_t e = 0; e < run.others.inner * run.others.outer; ++e) {
              ASSERT_EQ(sm90::position_in(part.others, offsets, e) + t * part.step,
                        sm90::position_in(run.others, offsets, e) + (begin + t) * run.step);
            }
          }
        }
      }
    }
  }
}

// Each head then has tiles that nobody else is given, and they are those that it had.
TEST(Sm90LiveTiles, HeadsApartHaveTheSameTilesEach) {
  for (const char* text : kPatterns) {
    const Plan plan = plan_of(text, 4, 700, 700, {128, 128}, false);
    const Work together = sm90::make_work(plan, 1), apart = sm90::make_work(plan, 1, true);
    EXPECT_NE(together.variant(), apart.variant());
    ASSERT_EQ(apart.groups.size(), 4u);
    ASSERT_EQ(apart.items, together.items);
    EXPECT_EQ(apart.sole_others, together.sole_others);
    EXPECT_EQ(apart.several_passes, together.several_passes);
    std::set<int32_t> used;
    for (const sm90::WorkGroup& group : together.groups) {
      for (int32_t h = 0; h < group.heads; ++h) {
        const int32_t head = together.heads[static_cast<size_t>(group.head_begin + h)];
        const auto own =
            std::find_if(apart.groups.begin(), apart.groups.end(), [&](const sm90::WorkGroup& g) {
              return apart.heads[static_cast<size_t>(g.head_begin)] == head;
            });
        ASSERT_NE(own, apart.groups.end());
        ASSERT_EQ(own->heads, 1);
        ASSERT_EQ(own->tiles, group.tiles);
        for (int32_t t = 0; t < group.tiles; ++t) {
          ASSERT_TRUE(used.insert(own->tile_begin + t).second);
          const WorkTile& a = apart.tiles[static_cast<size_t>(own->tile_begin + t)];
          const WorkTile& b = together.tiles[static_cast<size_t>(group.tile_begin + t)];
          ASSERT_EQ(a.owners.first, b.owners.first);
          ASSERT_EQ(a.run_begin, b.run_begin);
          ASSERT_EQ(a.tiles, b.tiles);
          ASSERT_EQ(a.wait, b.wait);
        }
      }
    }
  }
}

// Blocks of tiles take little; a mask of rows for every tile of many heads is left to others.
TEST(Sm90LiveTiles, RefusesTablesOfManyGigabytes) {
  AttentionShape shape;
  shape.device = Device::kCuda;
  shape.dtype = DType::kBFloat16;
  shape.batch = 1;
  shape.heads = shape.kv_heads = 64;
  shape.q_len = shape.k_len = 32768;
  shape.qk_dim = shape.v_dim = 64;
  shape.live_blocks = true;
  const auto refusal = [&](int64_t block_size, int64_t mask_heads) {
    shape.block_size = block_size, shape.mask_heads = mask_heads;
    return sm90::unsupported(shape);
  };
  EXPECT_EQ(refusal(128, 64), "");
  EXPECT_EQ(refusal(48, 1), "");
  EXPECT_NE(refusal(48, 64).find("blocks of 48 may take"), std::string::npos);
  shape.q_len -= 64;
  EXPECT_NE(refusal(128, 64), "") << "blocks begin within tiles";
  shape.q_len -= 64;
  EXPECT_EQ(refusal(128, 64), "");
}

}  // namespace
}  // namespace lace::test
