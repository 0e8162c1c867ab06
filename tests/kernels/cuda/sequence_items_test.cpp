// Which tiles and items of a plan sequences meet: the functions that the Hopper kernels call, on
// the host, against what a look at every position says.

#include "kernels/cuda/sm90/sequence_items.h"

#include <algorithm>
#include <array>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lace/pattern.h"

#include "kernels/cuda/sm90/sets.h"
#include "kernels/cuda/sm90/tensor_maps.h"

namespace lace::test {
namespace {

using sm90::Work;
using sm90::WorkRun;
using sm90::WorkSet;

Work work_of(const std::string& text, int64_t heads, int64_t length, TileShape tile,
             bool transposed) {
  return sm90::make_work(
      compile(Pattern::parse(text).bind(heads, length, length), tile, transposed), 1);
}

const char* const kPatterns[] = {
    "dense",
    "local(100) | sinks(3)",
    "block(96) | summary(96, 8)",
    "block(96) | summary(96, 24)",  // 120 rows in a box
    "local(64) | strided(64)",
    "dilated(9, 7)",
    "bidirectional(local(100) | global(7))",
    "random(2, 32, 5) | local(32)",
    "heads(1*local(64) | strided(64), 2*block(128) | summary(128, 32), 1*dense)",
};

std::vector<int32_t> positions_of(const WorkSet& set, const int32_t* offsets, int32_t shift) {
  std::vector<int32_t> positions;
  for (int32_t e = 0; e < set.inner * set.outer; ++e) {
    positions.push_back(sm90::position_in(set, offsets, e) + shift);
  }
  return positions;
}

TEST(Sm90Sets, RangesAreOneNumber) {
  for (int32_t end = 0; end <= 192; ++end) {
    for (int32_t begin = 0; begin <= end; ++begin) {
      const int32_t range = sm90::pack_range(begin, end);
      ASSERT_EQ(sm90::range_begin(range), begin);
      ASSERT_EQ(sm90::range_end(range), end);
      for (const int32_t size : {64, 128, 192}) {
        if (end > size) continue;
        ASSERT_EQ(range >= size, begin == 0 && end == size);
      }
      ASSERT_TRUE(begin == end || (sm90::in_range(range, begin) && sm90::in_range(range, end - 1)));
      ASSERT_FALSE(sm90::in_range(range, end) || sm90::in_range(range, begin - 1));
    }
  }
}

// count_before, range_between, may_meet and tiles_between of every tile of real plans.
TEST(Sm90Sets, TellWhichElementsAndTilesThereAre) {
  for (const char* text : kPatterns) {
    for (const bool transposed : {false, true}) {
      SCOPED_TRACE(testing::Message() << text << (transposed ? ", transposed" : ""));
      const Work work = work_of(text, 4, 700, {128, 128}, transposed);
      const int32_t* offsets = work.offsets.data();
      for (const auto& [begin, end] : std::vector<std::pair<int32_t, int32_t>>{{0, 700},
                                                                               {0, 1},
                                                                               {0, 127},
                                                                               {0, 128},
                                                                               {0, 129},
                                                                               {0, 333},
                                                                               {5, 5},
                                                                               {0, 0},
                                                                               {1, 700},
                                                                               {200, 201},
                                                                               {127, 300},
                                                                               {128, 640},
                                                                               {699, 700}}) {
        const auto is_in = [&, b = begin, e = end](int32_t p) { return b <= p && p < e; };
        const auto check_set = [&, b = begin, e = end](const WorkSet& set, int32_t shift) {
          const std::vector<int32_t> all = positions_of(set, offsets, shift);
          const auto before = [&](int32_t bound) {
            return static_cast<int32_t>(
                std::count_if(all.begin(), all.end(), [&](int32_t p) { return p < bound; }));
          };
          ASSERT_EQ(sm90::count_before(set, offsets, shift, e), before(e));
          ASSERT_EQ(sm90::range_between(set, offsets, shift, b, e),
                    sm90::pack_range(before(b), before(e)));
        };
        for (const sm90::WorkTile& tile : work.tiles) {
          check_set(tile.owners, 0);
          const std::vector<int32_t> all = positions_of(tile.owners, offsets, 0);
          ASSERT_EQ(sm90::may_meet(tile.owners, offsets, begin, end),
                    begin < end && all.front() < end && all.back() >= begin);
        }
        for (const WorkRun& run : work.runs) {
          const sm90::TileRange range = sm90::tiles_between(run, offsets, begin, end);
          ASSERT_LE(0, range.begin);
          ASSERT_LE(range.end, run.tiles);
          for (int32_t t = 0; t < run.tiles; ++t) {
            check_set(run.others, t * run.step);
            const std::vector<int32_t> all = positions_of(run.others, offsets, t * run.step);
            const bool inside = range.begin <= t && t < range.end;
            const bool meets = begin < end && all.front() < end && all.back() >= begin;
            ASSERT_EQ(inside, meets) << "tile " << t << " of positions " << begin << " to " << end;
            ASSERT_TRUE(inside || std::none_of(all.begin(), all.end(), is_in));
          }
        }
      }
    }
  }
}

// What the two kernels do, in a loop.
struct Listed {
  std::vector<sm90::PhaseItems> before;
  std::vector<int32_t> ranked, waits;
  std::vector<sm90::SequenceItem> items;
};

Listed list(const Work& work, const std::vector<sm90::WorkSection>& sections,
            const std::vector<Extent>& owners, const std::vector<Extent>& others) {
  sm90::SequenceTables tables;
  tables.tiles = work.tiles.data();
  tables.runs = work.runs.data();
  tables.offsets = work.offsets.data();
  tables.groups = work.groups.data();
  tables.passes = work.passes.data();
  tables.firsts = work.firsts.data();
  tables.lasts = work.lasts.data();
  tables.heads = work.heads.data();
  tables.sections = sections.data();
  const auto section_count = static_cast<int32_t>(sections.size());
  const auto heads = static_cast<int32_t>(work.heads.size());
  const auto batch = static_cast<int32_t>(owners.size());
  Listed made;
  for (int32_t s = 0; s < batch; ++s) made.ranked.push_back(s);
  const auto at = [](const auto& values, int32_t i) { return values[static_cast<size_t>(i)]; };
  std::stable_sort(made.ranked.begin(), made.ranked.end(), [&](int32_t a, int32_t b) {
    return sm90::length_class(at(owners, a), at(others, a)) >
           sm90::length_class(at(owners, b), at(others, b));
  });
  sm90::PhaseItems sum;
  for (const int32_t s : made.ranked) {
    for (const sm90::WorkSection& section : sections) {
      made.before.push_back(sum);
      const sm90::PhaseItems items = sm90::count_items(tables, section, at(owners, s));
      sum.joined += items.joined, sum.last += items.last;
    }
  }
  made.before.push_back(sum);
  made.items.assign(static_cast<size_t>(sum.joined + sum.last), {-1, -1, -1, -1});
  for (int32_t s = 0; s < batch; ++s) {
    for (const sm90::WorkGroup& group : work.groups) {
      int32_t wait = 0;
      for (int32_t p = group.pass_begin; p < group.pass_end; ++p) {
        made.waits.push_back(wait);
        wait += sm90::count_tiles(tables, p, at(owners, s));
      }
    }
  }
  for (int32_t rank = 0; rank < batch; ++rank) {
    const int32_t s = at(made.ranked, rank);
    for (int32_t i = 0; i < section_count; ++i) {
      const sm90::WorkSection& section = at(sections, i);
      const sm90::WorkGroup& group = at(work.groups, section.group);
      sm90::PhaseItems next =
          sm90::start_of_unit(made.before.data(), batch * section_count, rank * section_count + i);
      for (int32_t t = group.tile_begin; t < group.tile_begin + group.tiles; ++t) {
        const sm90::WorkTile& tile = at(work.tiles, t);
        const Extent extent = at(owners, s);
        if (!sm90::may_meet(tile.owners, tables.offsets, extent.begin, extent.end)) continue;
        sm90::SequenceItem item = sm90::make_item(tables, t, extent, at(others, s));
        int32_t& place = tile.count > 0 ? next.joined : next.last;
        for (int32_t h = 0; h < section.heads; ++h) {
          item.head = s * heads + at(work.heads, section.head_begin + h);
          EXPECT_EQ(at(made.items, place).tile, -1) << "two items in one place";
          made.items[static_cast<size_t>(place++)] = item;
        }
      }
    }
  }
  return made;
}

std::vector<Extent> extents_of(const std::vector<std::pair<int32_t, int32_t>>& all) {
  std::vector<Extent> extents;
  for (const auto& [begin, end] : all) extents.push_back({begin, end, 0});
  return extents;
}

void check_list(const Work& work, int64_t section, const std::vector<Extent>& owners,
                const std::vector<Extent>& others, int64_t rows) {
  const Listed listed = list(work, sm90::sections_of(work, section), owners, others);
  const auto heads = static_cast<int32_t>(work.heads.size());
  EXPECT_LE(static_cast<int64_t>(listed.items.size()),
            sm90::most_items(work, static_cast<int64_t>(owners.size()), rows));
  // What came so far: of each head of a sequence its tiles, and how many have been counted.
  std::map<std::pair<int32_t, int32_t>, int> seen;
  std::map<int32_t, int32_t> counted;
  int32_t longest = sm90::kSizeClasses;
  for (const sm90::SequenceItem& item : listed.items) {
    ASSERT_GE(item.tile, 0) << "a place without an item";
    const int32_t s = item.head / heads;
    ASSERT_EQ((seen[{item.head, item.tile}]++), 0);
    const sm90::WorkTile& tile = work.tiles[static_cast<size_t>(item.tile)];
    const int32_t wait = tile.wait == 0 ? 0
                                        : listed.waits[static_cast<size_t>(s) * work.passes.size() +
                                                       static_cast<size_t>(tile.pass_index)];
    ASSERT_GE(counted[item.head], wait) << "what is waited for comes later";
    counted[item.head] += tile.count;
    const Extent& own = owners[static_cast<size_t>(s)];
    const Extent& other = others[static_cast<size_t>(s)];
    if (!work.several_passes) {
      const int32_t length = sm90::length_class(own, other);
      ASSERT_LE(length, longest) << "a long sequence after a short one";
      longest = length;
    }
    ASSERT_EQ(item.owners,
              sm90::range_between(tile.owners, work.offsets.data(), 0, own.begin, own.end));
    int32_t tiles = 0;
    for (int32_t r = tile.run_begin; r < tile.run_end; ++r) {
      const sm90::TileRange range = sm90::tiles_between(
          work.runs[static_cast<size_t>(r)], work.offsets.data(), other.begin, other.end);
      tiles += range.end - range.begin;
    }
    const bool live = sm90::range_begin(item.owners) < sm90::range_end(item.owners);
    ASSERT_EQ(item.tiles, live ? tiles : 0);
  }
  // Every owner of every sequence is in the items of all of its passes; and waits are for those of
  // the passes before, no more.
  for (size_t s = 0; s < owners.size(); ++s) {
    for (const sm90::WorkGroup& group : work.groups) {
      for (int32_t t = group.tile_begin; t < group.tile_begin + group.tiles; ++t) {
        const sm90::WorkTile& tile = work.tiles[static_cast<size_t>(t)];
        const std::vector<int32_t> all = positions_of(tile.owners, work.offsets.data(), 0);
        const bool live = std::any_of(all.begin(), all.end(), [&](int32_t p) {
          return owners[s].begin <= p && p < owners[s].end;
        });
        for (int32_t h = 0; h < group.heads; ++h) {
          const int32_t head = static_cast<int32_t>(s) * heads +
                               work.heads[static_cast<size_t>(group.head_begin + h)];
          ASSERT_TRUE(!live || seen.count({head, t}) == 1);
        }
      }
      for (int32_t h = 0; h < group.heads; ++h) {
        const int32_t head =
            static_cast<int32_t>(s) * heads + work.heads[static_cast<size_t>(group.head_begin + h)];
        const int32_t of_last =
            listed.waits[s * work.passes.size() + static_cast<size_t>(group.pass_end - 1)];
        ASSERT_EQ(counted[head], group.pass_end - group.pass_begin > 1 ? of_last : 0);
      }
    }
  }
}

TEST(Sm90SequenceItems, EveryTileOfEverySequenceOnceInAnOrderThatCannotHang) {
  const auto lengths = extents_of({{0, 1},
                                   {0, 700},
                                   {0, 127},
                                   {0, 0},
                                   {0, 128},
                                   {0, 129},
                                   {0, 200},
                                   {0, 7},
                                   {0, 64},
                                   {0, 513},
                                   {0, 384}});
  int64_t rows = 0;
  for (const Extent& extent : lengths) rows += extent.end - extent.begin;
  for (const char* text : kPatterns) {
    for (const bool transposed : {false, true}) {
      for (const int64_t section : {1, 3, 4}) {
        SCOPED_TRACE(testing::Message() << text << " by " << section << ' ' << transposed);
        const Work work = work_of(text, 4, 700, {128, 128}, transposed);
        check_list(work, section, lengths, lengths, rows);
      }
    }
  }
}

TEST(Sm90SequenceItems, OfQueriesAnywhereInTheKeys) {
  std::mt19937 random(7);
  const auto below = [&](int32_t bound) -> int32_t {
    return static_cast<int32_t>(random() % static_cast<uint32_t>(bound));
  };
  for (int round = 0; round < 20; ++round) {
    std::vector<Extent> owners, others;
    int64_t rows = 0;
    for (int s = 0; s < 9; ++s) {
      const int32_t end = below(701), begin = below(end + 1);
      owners.push_back({begin, end, 0});
      const int32_t other_end = below(701);
      others.push_back({round % 2 == 0 ? 0 : below(other_end + 1), other_end, 0});
      rows += end - begin;
    }
    for (const char* text : kPatterns) {
      SCOPED_TRACE(text);
      for (const TileShape tile : {TileShape{128, 64}, {192, 128}}) {
        check_list(work_of(text, 4, 700, tile, false), 2, owners, others, rows);
      }
    }
  }
}

// Batches of units are more than one here.
TEST(Sm90SequenceItems, OfManySequences) {
  std::vector<Extent> lengths;
  int64_t rows = 0;
  for (int32_t s = 0; s < 300; ++s) {
    lengths.push_back({0, 1 + s * 37 % 260, 0});
    rows += lengths.back().end;
  }
  for (const char* text :
       {"local(64) | strided(64)", "dense", "heads(2*local(64) | strided(64), 2*block(128))"}) {
    SCOPED_TRACE(text);
    check_list(work_of(text, 4, 700, {128, 128}, false), 4, lengths, lengths, rows);
  }
}

// A long sequence beside many short ones has the items of each, whatever the plan's length.
TEST(Sm90SequenceItems, CostFollowsTheSequences) {
  const Work work = work_of("dense", 1, 12288, {128, 128}, false);
  std::vector<Extent> lengths(60, {0, 200, 0});
  lengths.push_back({0, 12288, 0});
  const Listed listed = list(work, sm90::sections_of(work, 1), lengths, lengths);
  EXPECT_EQ(listed.items.size(), 96u + 60 * 2);
  int64_t tiles = 0;
  for (const sm90::SequenceItem& item : listed.items) tiles += item.tiles;
  EXPECT_EQ(tiles, 96 * 97 / 2 + 60 * 3);
  EXPECT_EQ(listed.items.front().tiles, 96);
}

TEST(Sm90SequenceItems, ClassesOfLengthsAscend) {
  int32_t before = 0;
  for (int32_t length = 1; length < 100'000; ++length) {
    const int32_t own = sm90::length_class({3, 3 + length, 0}, {0, 1, 0});
    ASSERT_GE(own, before);
    before = own;
  }
  EXPECT_LT(sm90::length_class({0, INT32_MAX, 0}, {}), sm90::kSizeClasses);
  EXPECT_EQ(sm90::length_class({5, 5, 0}, {7, 6, 0}), 0);
}

// ---- tensor maps of sequences

// A tensor [batch, heads, rows, dim] of which a map is asked for boxes, as the hardware answers.
struct Mapped {
  sm90::MappedTensor tensor;
  int32_t batch;  // the element that is read

  // The row of the tensor that comes into row {inner i, outer o} of a box; −1: zeros. Rows of other
  // batch elements come with theirs.
  int64_t row(const sm90::BoxShape& box, int32_t i, int32_t o, int32_t row, int32_t period,
              int32_t end) const {
    const sm90::MapSteps steps = sm90::map_steps(tensor);
    return row_at(
        sm90::map_layout(tensor, box),
        {0, row + i, period + o, 0, int64_t{batch} * steps.batch + int64_t{end} * steps.row});
  }
  // Of the map of single rows.
  int64_t single_row(int32_t row) const {
    sm90::MappedTensor plain = tensor;
    plain.positions = 0;
    return row_at(sm90::map_layout(plain, {0, 1, 1}), {0, row, 0, 0, batch});
  }
  int64_t row_at(const sm90::MapLayout& layout, const std::array<int64_t, 5>& at) const {
    int64_t address = -layout.before;
    for (size_t d = 1; d < 5; ++d) {
      if (at[d] < 0 || at[d] >= layout.sizes[d]) return -1;
      address += at[d] * layout.strides[d - 1];
    }
    const Tensor4& t = tensor.tensor;
    EXPECT_GE(address, 0) << "before the tensor";
    EXPECT_EQ((address - batch * t.batch_stride) % t.row_stride, 0);
    return (address - batch * t.batch_stride) / t.row_stride;
  }
};

// A set as a loading warp reads it, row by row of the tile in shared memory.
void check_load(const Mapped& mapped, const WorkSet& set, const std::vector<sm90::BoxShape>& boxes,
                const int32_t* offsets, const sm90::Side<true>& side, const sm90::BoxPlace& place,
                int32_t shift, int32_t range, int32_t rows) {
  const Extent& extent = side.extent;
  const bool box = sm90::is_box(set, side, place, shift, range, rows);
  const int32_t size = set.inner * set.outer;
  bool any = false;
  for (int32_t e = 0; e < rows; ++e) {
    int64_t got = 0;
    if (box) {
      ASSERT_LT(e, set.box_rows) << "a row that keeps what it held";
      const bool periods = set.map >= sm90::kNaturalMaps;
      const sm90::BoxShape shape = periods
                                       ? boxes[static_cast<size_t>(set.map - sm90::kNaturalMaps)]
                                       : sm90::BoxShape{0, rows, 1};
      got = mapped.row(shape, e % shape.inner, e / shape.inner, place.row, place.period, side.end);
    } else {
      got = mapped.single_row(sm90::row_or_none(set, side, offsets, shift, e));
    }
    any |= got >= 0;
    if (e < size && sm90::in_range(range, e)) {
      ASSERT_EQ(got, sm90::position_in(set, offsets, e) + shift + extent.row) << "element " << e;
    } else if (got >= 0) {
      ASSERT_GE(e, size) << "an element that is not there";
      ASSERT_LE(extent.begin, got - extent.row) << "a row of another sequence";
      ASSERT_LT(got - extent.row, extent.end) << "a row of another sequence";
    }
  }
  ASSERT_TRUE(any || !box) << "a box with nothing inside, which reads where the map begins";
}

TEST(Sm90Maps, ReadARowOfTheSequenceOrZeros) {
  constexpr int32_t kLength = 700, kRows = 900;
  // Of positions [begin, end) the first rows: left padding, documents behind others, queries whose
  // first positions have no row.
  const std::vector<Extent> extents = {
      {0, 700, 0},    {0, 127, 0},     {0, 128, 3},  {0, 129, 770},   {0, 1, 899},
      {0, 513, 37},   {0, 640, 11},    {5, 333, -5}, {128, 200, 500}, {650, 700, -650},
      {77, 640, 100}, {699, 700, 200}, {0, 96, 0},   {300, 301, 0},
  };
  const Tensor4 rows_first{nullptr, kRows * 4 * 64, 64, 4 * 64},
      heads_first{nullptr, 4 * kRows * 64, kRows * 64, 64};
  const Tensor4 apart{nullptr, kRows * 80 + 24, 24, 80};
  for (const char* text : kPatterns) {
    for (const bool transposed : {false, true}) {
      const Work work = work_of(text, 4, kLength, {128, 128}, transposed);
      const int32_t* offsets = work.offsets.data();
      for (const auto& [strides, batch] :
           {std::pair(rows_first, 1), {rows_first, 3}, {heads_first, 3}, {apart, 2}}) {
        const sm90::MappedTensor tensor{strides, DType::kBFloat16, 64, kRows, 4, batch, kLength};
        const Mapped mapped{tensor, batch - 1};
        for (const Extent& extent : extents) {
          SCOPED_TRACE(testing::Message() << text << " transposed " << transposed << ", batch "
                                          << batch << ", positions " << extent.begin << " to "
                                          << extent.end << " at " << extent.row);
          for (const sm90::WorkTile& tile : work.tiles) {
            if (!sm90::may_meet(tile.owners, offsets, extent.begin, extent.end)) continue;
            const int32_t end = sm90::map_end(tile.owners, extent);
            const sm90::Side<true> side{extent, end, kLength};
            // In an item the first owner is named by its row.
            WorkSet set = tile.owners;
            set.first += extent.row;
            const int32_t range =
                sm90::range_between(tile.owners, offsets, 0, extent.begin, extent.end);
            check_load(mapped, set, work.owner_boxes, offsets, side,
                       sm90::BoxPlace(set, -extent.row, side), -extent.row, range, work.owner_rows);
            if (HasFatalFailure()) return;
          }
          for (const WorkRun& run : work.runs) {
            const int32_t end = sm90::map_end(run.others, extent);
            const sm90::Side<true> side{extent, end, kLength};
            const auto [first, last] = sm90::tiles_between(run, offsets, extent.begin, extent.end);
            sm90::TileWalk walk(run, side, first);
            for (int32_t t = first; t < last; ++t, walk.next(run)) {
              const bool whole = walk.is_whole(run.others, side);
              const int32_t range = walk.range(run.others, offsets, whole, side);
              ASSERT_EQ(range, sm90::range_between(run.others, offsets, t * run.step, extent.begin,
                                                   extent.end));
              check_load(mapped, run.others, work.other_boxes, offsets, side, walk.place,
                         walk.shift, range, work.other_rows);
              if (HasFatalFailure()) return;
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace lace::test
