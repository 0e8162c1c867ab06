// How tiles of a plan become batches of live rows.

#include "kernels/cpu/tile_walk.h"

#include <map>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "lace/error.h"
#include "lace/pattern.h"

#include "kernels/cpu/tile_tasks.h"

namespace lace::test {
namespace {

using cpu::kBatchOthers;
using cpu::kGranule;
using cpu::kTileOwners;
using cpu::OtherBatch;
using cpu::OwnerLanes;

constexpr int64_t kQLen = 250, kKLen = 270;

const char* const kPatterns[] = {
    "dense",
    "local(40) | strided(16)",
    "block(48) | summary(48, 5)",
    "summary(32, 4)",
    "dilated(20, 5)",
    "bidirectional(local(40) | global(3))",
    "random(2, 16, 7) | local(16)",
    "heads(1*strided(7), 1*local(3, 16) | sinks(2))",
};
constexpr TileShape kTiles[] = {{64, 64}, {32, 48}, {64, 128}};

template <typename Body>
void for_each_plan(const Body& body) {
  for (const char* text : kPatterns) {
    const BoundPattern pattern = Pattern::parse(text).bind(2, kQLen, kKLen);
    for (const TileShape tile : kTiles) {
      for (const bool transposed : {false, true}) {
        SCOPED_TRACE(concat(text, ", tiles ", tile.owners, " x ", tile.others,
                            transposed ? ", transposed" : ""));
        body(pattern, compile(pattern, tile, transposed), transposed);
      }
    }
  }
}

OwnerLanes owners_of(const Plan& plan, const OwnerTile& tile) {
  return cpu::owners_of(plan, tile, cpu::all_rows(plan.owner_len));
}

std::vector<OtherBatch> batches_of(const Plan& plan, const OwnerTile& tile) {
  const OwnerLanes owners = owners_of(plan, tile);
  std::vector<OtherBatch> batches;
  cpu::BatchReader reader(plan, tile, owners, cpu::all_rows(plan.other_len));
  OtherBatch batch;
  while (reader.next(batch)) batches.push_back(batch);
  EXPECT_EQ(batch.count, 0);
  return batches;
}

TEST(TileWalk, BatchesHaveEveryPairOnce) {
  for_each_plan([](const BoundPattern& pattern, const Plan& plan, bool transposed) {
    for (int64_t head = 0; head < 2; ++head) {
      std::map<std::pair<int64_t, int64_t>, int> seen;  // (owner, other)
      const int32_t group = plan.head_group[static_cast<size_t>(head)];
      const HeadGroup& passes = plan.groups[static_cast<size_t>(group)];
      for (int32_t p = passes.pass_begin; p < passes.pass_end; ++p) {
        const Pass& pass = plan.passes[static_cast<size_t>(p)];
        for (int32_t t = pass.tile_begin; t < pass.tile_end; ++t) {
          const OwnerTile& tile = plan.tiles[static_cast<size_t>(t)];
          const OwnerLanes owners = owners_of(plan, tile);
          for (const OtherBatch& batch : batches_of(plan, tile)) {
            for (int r = 0; r < batch.count; ++r) {
              for (int e = 0; e < kTileOwners; ++e) {
                if ((batch.live[r] >> e & 1) == 0) continue;
                ++seen[{owners.positions[e], batch.positions[r]}];
              }
            }
          }
        }
      }
      size_t pairs = 0;
      for (int64_t row = 0; row < kQLen; ++row) {
        for (int64_t key = 0; key < kKLen; ++key) {
          if (!pattern.attends(head, kKLen - kQLen + row, key)) continue;
          ++pairs;
          const auto found = seen.find(transposed ? std::pair(key, row) : std::pair(row, key));
          ASSERT_TRUE(found != seen.end()) << "query " << row << ", key " << key;
          ASSERT_EQ(found->second, 1) << "query " << row << ", key " << key;
        }
      }
      EXPECT_EQ(seen.size(), pairs);
    }
  });
}

TEST(TileWalk, OwnersAreTheLanesWithRows) {
  for_each_plan([](const BoundPattern&, const Plan& plan, bool) {
    for (const OwnerTile& tile : plan.tiles) {
      const OwnerLanes owners = owners_of(plan, tile);
      int lane = 0;
      for (int32_t o = 0; o < tile.owners.outer; ++o) {
        for (int32_t i = 0; i < tile.owners.inner; ++i, ++lane) {
          const int64_t position = plan.position(tile.owners, o, i);
          const bool inside = position < plan.owner_len;
          EXPECT_EQ(owners.positions[lane], inside ? position : -1);
          EXPECT_EQ(owners.rows >> lane & 1, inside ? 1u : 0u);
          if (inside) {
            EXPECT_LT(lane, owners.count);
          }
        }
      }
      EXPECT_EQ(owners.count == 0 ? 0 : owners.rows >> (owners.count - 1),
                owners.count == 0 ? 0u : 1u);
    }
  });
}

TEST(TileWalk, AllBatchesButTheLastAreFull) {
  for_each_plan([](const BoundPattern&, const Plan& plan, bool) {
    for (const OwnerTile& tile : plan.tiles) {
      const std::vector<OtherBatch> batches = batches_of(plan, tile);
      for (size_t b = 0; b < batches.size(); ++b) {
        EXPECT_TRUE(batches[b].count == kBatchOthers ||
                    (b + 1 == batches.size() && batches[b].count > 0));
        for (int r = 0; r < batches[b].count; ++r) {
          EXPECT_LT(batches[b].positions[r], plan.other_len);
          EXPECT_NE(batches[b].live[r], 0u) << "a row that no owner attends to";
        }
      }
    }
  });
}

// What the kernels rely on: they compute the granules of a segment only, unmasked where it says so,
// and pairs of rows from its begin on.
TEST(TileWalk, SegmentsTellOfTheLivePairs) {
  int masked = 0, narrow = 0;
  for_each_plan([&](const BoundPattern&, const Plan& plan, bool) {
    for (const OwnerTile& tile : plan.tiles) {
      const OwnerLanes owners = owners_of(plan, tile);
      for (const OtherBatch& batch : batches_of(plan, tile)) {
        int end = 0;
        for (int s = 0; s < batch.segment_count; ++s) {
          const cpu::Segment& segment = batch.segments[s];
          ASSERT_EQ(segment.begin, end);
          ASSERT_LT(segment.begin, segment.end);
          ASSERT_EQ(segment.begin % 2, 0);
          end = segment.end;
          uint64_t inside = 0;
          for (int lane = segment.granule_begin * kGranule; lane < segment.granule_end * kGranule;
               ++lane) {
            inside |= uint64_t{1} << lane;
          }
          for (int r = segment.begin; r < segment.end; ++r) {
            ASSERT_EQ(batch.live[r] & ~inside, 0u);
            ASSERT_EQ(batch.live[r] & ~owners.rows, 0u);
            if (!segment.masked) {
              ASSERT_EQ(batch.live[r], owners.rows & inside);
            }
          }
          masked += segment.masked;
          narrow += segment.granule_end - segment.granule_begin < (owners.count + 15) / kGranule;
        }
        ASSERT_EQ(end, batch.count);
      }
    }
  });
  EXPECT_GT(masked, 0);
  EXPECT_GT(narrow, 0);
}

TEST(TileWalk, EachBatchComesWithTheNext) {
  for_each_plan([](const BoundPattern&, const Plan& plan, bool) {
    for (const OwnerTile& tile : plan.tiles) {
      const std::vector<OtherBatch> batches = batches_of(plan, tile);
      size_t at = 0;
      cpu::for_each_batch(plan, tile, owners_of(plan, tile), cpu::all_rows(plan.other_len),
                          [&](const OtherBatch& batch, const OtherBatch* next) {
                            ASSERT_LT(at, batches.size());
                            EXPECT_EQ(batch.positions[0], batches[at].positions[0]);
                            ++at;
                            ASSERT_EQ(next != nullptr, at < batches.size());
                            if (next) {
                              EXPECT_EQ(next->positions[0], batches[at].positions[0]);
                            }
                          });
      EXPECT_EQ(at, batches.size());
    }
  });
}

// ---- the tasks of forward -----------------------------------------------------------------------

TEST(TileTasks, EveryTileOfThePassIsOneTaskOfEveryHead) {
  constexpr int64_t kBatch = 3;
  for_each_plan([](const BoundPattern&, const Plan& plan, bool) {
    for (int pass = 0; pass < cpu::pass_count(plan); ++pass) {
      for (const int threads : {1, 7}) {
        const cpu::TileTasks tasks = cpu::tile_tasks(plan, kBatch, pass, threads);
        std::map<std::pair<int64_t, int32_t>, int> seen;  // (batch · heads + head, tile)
        for (const cpu::TileTask& task : tasks.tasks) {
          ++seen[{task.batch * plan.heads + task.head, task.tile}];
        }
        size_t expected = 0;
        for (int64_t b = 0; b < kBatch; ++b) {
          for (int64_t head = 0; head < plan.heads; ++head) {
            if (pass >= cpu::passes_of(plan, head)) continue;
            const int32_t group = plan.head_group[static_cast<size_t>(head)];
            const int32_t first = plan.groups[static_cast<size_t>(group)].pass_begin;
            const Pass& of_head = plan.passes[static_cast<size_t>(first + pass)];
            for (int32_t t = of_head.tile_begin; t < of_head.tile_end; ++t, ++expected) {
              EXPECT_EQ((seen[{b * plan.heads + head, t}]), 1);
            }
          }
        }
        EXPECT_EQ(seen.size(), expected);
      }
    }
  });
}

TEST(TileTasks, ChunksFollowEachOther) {
  for_each_plan([](const BoundPattern&, const Plan& plan, bool) {
    for (const int threads : {1, 7}) {
      const cpu::TileTasks tasks = cpu::tile_tasks(plan, 2, 0, threads);
      ASSERT_GE(tasks.chunks.size(), 2u);
      EXPECT_EQ(tasks.chunks.front(), 0);
      EXPECT_EQ(tasks.chunks.back(), static_cast<int32_t>(tasks.tasks.size()));
      for (size_t c = 1; c < tasks.chunks.size(); ++c) {
        EXPECT_LT(tasks.chunks[c - 1], tasks.chunks[c]) << "an empty chunk";
      }
    }
  });
}

// Queries and keys of sequences that a plan for 1,000 positions serves.
const std::vector<Sequence> kSequences = {
    {{0, 1000, 7}, {0, 1000, 9}},  {{0, 50, 1007}, {0, 50, 1009}}, {{0, 0, 0}, {0, 0, 0}},
    {{100, 170, 0}, {40, 170, 0}}, {{0, 64, 1057}, {0, 64, 1059}},
};

// A sequence costs what it costs alone: its queries once, and as many pairs as a plan of its own
// would compute.
TEST(TileTasks, FollowTheSequences) {
  const auto batch = static_cast<int64_t>(kSequences.size());
  for (const char* text : {"dense", "local(100)", "block(64) | summary(64, 8)"}) {
    SCOPED_TRACE(text);
    const Plan plan = compile(Pattern::parse(text).bind(1, 1000, 1000), {64, 64}, false);
    const cpu::TileTasks tasks = cpu::tile_tasks(plan, batch, 0, 2, kSequences.data());
    std::vector<std::map<int64_t, int>> rows(kSequences.size());
    std::vector<int64_t> pairs(kSequences.size());
    for (const cpu::TileTask& task : tasks.tasks) {
      const auto s = static_cast<size_t>(task.batch);
      const OwnerTile& tile = plan.tiles[static_cast<size_t>(task.tile)];
      const cpu::PlanExtents extents = cpu::extents_of(plan, kSequences.data(), task.batch);
      const OwnerLanes owners = cpu::owners_of(plan, tile, extents.owners);
      for (int e = 0; e < owners.count; ++e) {
        if (owners.positions[e] >= 0) ++rows[s][owners.positions[e]];
      }
      cpu::BatchReader reader(plan, tile, owners, extents.others);
      OtherBatch others;
      while (reader.next(others)) {
        pairs[s] += int64_t{others.count} * owners.count;
        for (int r = 0; r < others.count; ++r) {
          EXPECT_GE(others.positions[r], extents.others.begin + extents.others.row);
          EXPECT_LT(others.positions[r], extents.others.end + extents.others.row);
        }
      }
    }
    for (size_t s = 0; s < kSequences.size(); ++s) {
      const Extent& queries = kSequences[s].q;
      EXPECT_EQ(static_cast<int64_t>(rows[s].size()), queries.end - queries.begin);
      for (const auto& [row, count] : rows[s]) {
        EXPECT_EQ(count, 1);
        EXPECT_GE(row, queries.begin + queries.row);
        EXPECT_LT(row, queries.end + queries.row);
      }
      EXPECT_LE(pairs[s], int64_t{queries.end} * (queries.end + 64)) << "of sequence " << s;
    }
    EXPECT_EQ(pairs[2], 0);
    EXPECT_LE(pairs[1], 50 * 50);
  }
}

// Where one tile is most of a thread's work, the largest come first.
TEST(TileTasks, LargestFirstWhereTheyAreFew) {
  const Plan plan = compile(Pattern::parse("dense").bind(1, 1000, 1000), {64, 64}, false);
  const cpu::TileTasks tasks = cpu::tile_tasks(plan, 1, 0, 4);
  int64_t last = INT64_MAX;
  for (const cpu::TileTask& task : tasks.tasks) {
    const int64_t work =
        cpu::tile_work(plan, plan.tiles[static_cast<size_t>(task.tile)], plan.other_len);
    EXPECT_LE(work, last);
    last = work;
  }
}

}  // namespace
}  // namespace lace::test
