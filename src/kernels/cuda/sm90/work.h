#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cuda/pass_order.h"
#include "plan/plan.h"

namespace lace::sm90 {

// A Plan as the Hopper kernels walk it: which tensor map reads a tile and where, masks by the rows
// of the accumulator, and the order in which tiles are worked on. All fields are 32 bits: lengths
// stay below 2^30.

inline constexpr int kOtherRows = 128;  // others of a tile, at most
inline constexpr int kOwnerRows = 192;  // owners of a tile, at most

// Tensor maps of one tensor. Natural map 0 reads a tile's rows in a row, maps 1 … 7 read 64, 32, …
// 1 of them; the others read boxes of a period.
inline constexpr int kNaturalMaps = 8;
inline constexpr int kRowMap = kNaturalMaps - 1;  // the one that reads one row
inline constexpr int kZeroMap = 1;  // with sequences: a tile's rows, for columns that there are not
inline constexpr int kPeriodMaps = 8;
inline constexpr int kMaps = kNaturalMaps + kPeriodMaps;

// `outer` stretches of `inner` rows, `period` apart.
struct BoxShape {
  int32_t period = 0, inner = 0, outer = 0;
  bool operator==(const BoxShape&) const = default;
};

// An IndexSet with the map that reads it in one box. map −1: stretch by stretch.
// rows_full is how many whole periods the sequence holds, 1 if it is not by periods, 0 without a
// map: a box may not touch the cut one after them, which would run past the tensor; such tiles are
// read stretch by stretch.
struct WorkSet {
  int32_t first = 0, stride = 0, inner = 0, outer = 0, offsets = -1;
  int32_t map = -1, rows_full = 0, box_rows = 0;
};

// As Run, but mask_cycle 1 means that mask_begin is the mask of every tile, with its flags.
struct WorkRun {
  WorkSet others;
  int32_t step = 0, tiles = 0, mask_begin = 0, mask_cycle = 0;
};

using cuda::kAll, cuda::kNone, cuda::kSome;

// A tile of owners of one pass: 32 words, which a warp copies at once. From `earlier` to `count`,
// and `pass`, as in an OrderedTile.
struct alignas(16) WorkTile {
  WorkSet owners;
  int32_t owner_count = 0;  // inside the sequence
  int32_t run_begin = 0, run_end = 0;
  int32_t tiles = 0;  // of all runs together
  int32_t earlier = kNone, later = kNone;
  int32_t earlier_bits = 0, later_bits = 0;
  int32_t wait = 0, count = 0;
  WorkRun first_run;  // a copy of runs[run_begin], tiles 0 if there is none
  int32_t pass = 0;
  int32_t pass_index = 0;  // in Work::passes
};
inline constexpr int kTileWords = sizeof(WorkTile) / 4;
inline constexpr int kRunWords = sizeof(WorkRun) / 4;
static_assert(kTileWords == 32);

// A mask is named by its index and what is known of its owners by 64: kDeadRows << group if no pair
// is live, kFullRows << group if all are. −1: no mask.
inline constexpr int32_t kMaskIndex = (1 << 24) - 1, kDeadRows = 1 << 24, kFullRows = 1 << 27;

// Tiles [tile_begin, tile_begin + tiles) are worked on for `heads` heads, pass by pass.
struct WorkGroup {
  int32_t tile_begin = 0, tiles = 0;
  int32_t head_begin = 0, heads = 0;
  int32_t pass_begin = 0, pass_end = 0;
};

// The tiles of a pass. Work::firsts and Work::lasts have at [tile_begin, tile_end) the first
// positions of their owners, ascending, and the last ones, ascending too: how many tiles meet
// positions [begin, end) is then found in two searches.
struct WorkPass {
  int32_t tile_begin = 0, tile_end = 0;
};

struct Work {
  std::vector<WorkGroup> groups;  // of equal items, those of most work come first
  std::vector<WorkPass> passes;   // of the groups
  std::vector<int32_t> firsts, lasts;
  std::vector<int32_t> heads;       // of the groups; each once
  std::vector<WorkTile> tiles;      // in the order of work: by pass, most work first
  std::vector<WorkRun> runs;        // as in the plan
  std::vector<int32_t> mask_ids;    // as in the plan, with flags
  std::vector<uint32_t> mask_rows;  // [mask][owner_rows][4]: bit f % 32 of word f / 32
  std::vector<int32_t> offsets;     // as in the plan
  std::vector<uint32_t> row_bits;
  std::vector<BoxShape> owner_boxes;  // map kNaturalMaps + index; at most kPeriodMaps
  std::vector<BoxShape> other_boxes;
  bool owner_stretches = false;  // a tile of owners may be read stretch by stretch
  bool other_stretches = false;
  int32_t items = 0;            // heads · tiles of all groups
  int32_t members = 1;          // plan heads of a head here: 2 m and 2 m + 1 of head m, if 2
  int32_t owner_rows = 128;     // 128 or 192: no tile has more owners
  int32_t other_rows = 128;     // 64 or 128: no tile has more others
  int64_t tiles_of_others = 0;  // of all heads
  int32_t longest = 0;          // tiles of others of an item, at most
  bool heads_apart = false;     // each has tiles of its own
  bool several_passes = false;
  bool sole_others = false;  // every position of others is in one tile, of one pass, alone
  int64_t size_bytes() const;
  // Tells works of one plan apart.
  int64_t variant() const { return 2 * int64_t{members} + (heads_apart ? 1 : 0); }
};

// How many masks a work may have: int32 counts their words.
constexpr int64_t most_masks(int32_t owner_rows) {
  const int64_t most = (int64_t{1} << 29) / owner_rows;
  return most < kMaskIndex ? most : kMaskIndex;
}

// plan: of tiles no larger than 192 × 128, and lengths below 2^30. Where every `heads_per_item`
// neighbouring heads have the same tiles, an item is for all of them (the query heads that share a
// key head): they count as one head and `members` says how many they are.
// heads_apart: each head has a group of its own, and so tiles that no other head has
// (live_tiles.h).
Work make_work(const Plan& plan, int64_t heads_per_item, bool heads_apart = false);

// What a block takes at a time: a tile of owners for a head of the batch.
struct WorkItem {
  int32_t tile = 0;  // of Work::tiles
  int32_t head = 0;  // batch element · heads of the work + head
  bool operator==(const WorkItem&) const = default;
};

// The items of `batch` batch elements in the order in which they are worked on: `section` heads of
// the batch together, so that what they share stays in L2. Of a section first come the passes that
// others join (WorkTile::count), while the section before is finished, so that what is waited for
// has long been begun; then the last passes. Within either those with most tiles of others come
// first, whatever their pattern, so that at the end no long item stands alone; and a tile of all
// heads before the next tile, so that neighbours work on tiles of the same length.
std::vector<WorkItem> order_items(const Work& work, int64_t batch, int64_t section);

}  // namespace lace::sm90
