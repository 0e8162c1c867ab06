#pragma once

#include <cstdint>
#include <vector>

#include "plan/plan.h"

namespace lace::cuda {

// In which order one launch works on the passes of a plan, and what its tiles have to do with each
// other: a pass joins what those worked on before left of its rows.

// Which rows of a tile another pass covers.
enum Covered : int32_t { kNone = 0, kAll = 1, kSome = 2 };

struct OrderedTile {
  OwnerTile source;          // the plan's tile
  int32_t pass = 0;          // 0: worked on first
  int32_t others = 0;        // tiles of others that it sees
  int32_t earlier = kNone;   // rows that a pass worked on before has partial results of
  int32_t later = kNone;     // rows that a pass worked on afterwards will finish
  int32_t earlier_bits = 0;  // kSome: bit e of row_bits[… + e / 32]
  int32_t later_bits = 0;
  // Tiles of the passes worked on before, of one head: until so many have counted themselves, it
  // may neither join what they left nor count itself. 0 where it need not do either.
  int32_t wait = 0;
  int32_t count = 0;  // 1 where others may wait for this one
};

struct PassOrder {
  // The tiles of a group, the first `first` of which are of all passes but the last.
  struct Group {
    int32_t begin = 0, end = 0, first = 0;
  };
  std::vector<OrderedTile> tiles;  // by pass, most tiles of others first
  std::vector<Group> groups;       // as in the plan
  std::vector<uint32_t> row_bits;
  bool several_passes = false;  // of some group
  int32_t longest = 0;          // tiles of others of a tile, at most
  int64_t tiles_of_others = 0;  // of all heads
};

// One counter for each head tells that all tiles of the passes before are done, since those of a
// pass count themselves only after it has reached what they wait for, also where they join nothing:
// else theirs could stand for tiles of the passes before that are not done.
//
// Of a row's passes any may be the first. Those of a few rows that see everything are worked on
// first, since they take longest, and those of rows in a row last: they find what others left in
// one piece.
PassOrder order_passes(const Plan& plan);

// Whether every `members` neighbouring heads are of one group: they have the same tiles.
bool heads_are_alike(const Plan& plan, int64_t members);

// Sets `out` to the positions of the elements of `set` that lie before `end`.
void positions(const Plan& plan, const IndexSet& set, int64_t end, std::vector<int64_t>& out);

}  // namespace lace::cuda
