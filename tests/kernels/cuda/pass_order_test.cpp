// In which order passes are worked on, and what their tiles know of each other: host code, no GPU
// needed.

#include "kernels/cuda/pass_order.h"

#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "lace/pattern.h"

#include "kernels/cuda/section_order.h"

namespace lace::test {
namespace {

bool covers(const cuda::PassOrder& order, int32_t rows, int32_t bits, size_t e) {
  if (rows != cuda::kSome) return rows == cuda::kAll;
  return (order.row_bits[static_cast<size_t>(bits) + e / 32] >> (e % 32) & 1) != 0;
}

// Works on the tiles of a group in order.
void expect_rows_are_joined(const Plan& plan, const cuda::PassOrder& order,
                            const cuda::PassOrder::Group& group) {
  std::vector<int> begun(static_cast<size_t>(plan.owner_len)), finished = begun;
  std::vector<int64_t> rows;
  int32_t told = 0;  // tiles that later passes may wait for
  for (int32_t t = group.begin; t < group.end; ++t) {
    const cuda::OrderedTile& tile = order.tiles[static_cast<size_t>(t)];
    EXPECT_EQ(tile.count, t - group.begin < group.first ? 1 : 0);
    EXPECT_LE(tile.wait, told);
    if (tile.earlier != cuda::kNone) {
      EXPECT_GT(tile.wait, 0);
    }
    cuda::positions(plan, tile.source.owners, plan.owner_len, rows);
    for (size_t e = 0; e < rows.size(); ++e) {
      const auto row = static_cast<size_t>(rows[e]);
      EXPECT_EQ(covers(order, tile.earlier, tile.earlier_bits, e), begun[row] > 0) << row;
      EXPECT_EQ(finished[row], 0) << row;
      ++begun[row];
      if (!covers(order, tile.later, tile.later_bits, e)) ++finished[row];
    }
    told += tile.count;
  }
  for (const int count : finished) EXPECT_EQ(count, 1);
}

TEST(PassOrder, EveryRowIsFinishedOnceByWhoKnowsOfTheOthers) {
  for (const char* text :
       {"dense", "local(128) | strided(128)", "block(96) | summary(96, 8)", "fixed(128, 32, 4)",
        "bidirectional(local(100) | global(7))", "local(37) | summary(50, 3) | sinks(2)",
        "heads(1*strided(7), 1*local(31) | strided(9))"}) {
    for (const int32_t owners : {64, 128, 192}) {
      for (const bool transposed : {false, true}) {
        SCOPED_TRACE(testing::Message()
                     << text << " by " << owners << " transposed " << transposed);
        const Plan plan =
            compile(Pattern::parse(text).bind(4, 3000, 3000), {owners, 64}, transposed);
        const cuda::PassOrder order = cuda::order_passes(plan);
        ASSERT_EQ(order.groups.size(), plan.groups.size());
        for (const cuda::PassOrder::Group& group : order.groups) {
          expect_rows_are_joined(plan, order, group);
        }
      }
    }
  }
}

// How many tiles of a group can count themselves while tile `unfinished` is being worked on.
int32_t most_counted(const cuda::PassOrder& order, const cuda::PassOrder::Group& group,
                     int32_t unfinished) {
  int32_t counted = 0;
  for (bool more = true; more;) {
    const int32_t before = counted;
    counted = 0;
    for (int32_t t = group.begin; t < group.end; ++t) {
      const cuda::OrderedTile& tile = order.tiles[static_cast<size_t>(t)];
      if (t != unfinished && tile.wait <= before) counted += tile.count;
    }
    more = counted > before;
  }
  return counted;
}

TEST(PassOrder, NobodyGoesOnBeforeThoseItWaitsFor) {
  bool three_passes = false;
  for (const char* text :
       {"local(128) | strided(128)", "local(16) | summary(32, 4) & local(96) | strided(32)",
        "bidirectional(local(20) | strided(32) & local(512) | global(7) & local(900))",
        "local(32) | strided(32) | sinks(4)"}) {
    for (const bool transposed : {false, true}) {
      SCOPED_TRACE(testing::Message() << text << " transposed " << transposed);
      const Plan plan = compile(Pattern::parse(text).bind(1, 1100, 1100), {128, 64}, transposed);
      const cuda::PassOrder order = cuda::order_passes(plan);
      const cuda::PassOrder::Group& group = order.groups.front();
      three_passes |= plan.passes.size() >= 3;
      // A tile waits for the first `wait` ones, which are those of the passes before.
      for (int32_t u = group.begin; u < group.begin + group.first; ++u) {
        const int32_t counted = most_counted(order, group, u);
        for (int32_t t = group.begin; t < group.end; ++t) {
          const int32_t wait = order.tiles[static_cast<size_t>(t)].wait;
          if (wait > u - group.begin) {
            EXPECT_LT(counted, wait) << t << " goes on before " << u;
          }
        }
      }
    }
  }
  EXPECT_TRUE(three_passes);
}

TEST(PassOrder, LongestTilesFirstAndRowsInARowLast) {
  const Plan plan =
      compile(Pattern::parse("bidirectional(local(100) | global(7))").bind(1, 3000, 3000),
              {128, 64}, false);
  const cuda::PassOrder order = cuda::order_passes(plan);
  ASSERT_TRUE(order.several_passes);
  const cuda::PassOrder::Group& group = order.groups.front();
  EXPECT_EQ(group.first, 1);  // the global rows
  EXPECT_EQ(order.tiles[0].later, cuda::kAll);
  for (int32_t t = group.begin + group.first + 1; t < group.end; ++t) {
    EXPECT_LE(order.tiles[static_cast<size_t>(t)].others,
              order.tiles[static_cast<size_t>(t - 1)].others);
  }
}

TEST(SectionOrder, EveryTileOfEveryHeadOnceTheFirstOnesBeforeThoseThatWait) {
  for (const int32_t heads : {1, 2, 5, 12}) {
    for (const int32_t size : {1, 2, 3, 5, 12}) {
      for (const int32_t first : {0, 1, 3}) {
        for (const int32_t last : {1, 4}) {
          SCOPED_TRACE(testing::Message() << heads << " heads by " << size << ", " << first << " + "
                                          << last << " tiles");
          if (size > heads) continue;
          const int32_t tiles = first + last;
          std::vector<int> done(static_cast<size_t>(heads * tiles));
          for (int32_t i = 0; i < heads * tiles; ++i) {
            const cuda::HeadTile found = cuda::find_head_tile({heads, size, first, tiles}, i);
            ASSERT_TRUE(found.head >= 0 && found.head < heads && found.tile >= 0 &&
                        found.tile < tiles);
            int& count = done[static_cast<size_t>(found.head * tiles + found.tile)];
            EXPECT_EQ(count++, 0);
            if (found.tile < first) continue;
            for (int32_t t = 0; t < first; ++t) {
              EXPECT_EQ(done[static_cast<size_t>(found.head * tiles + t)], 1);
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace lace::test
