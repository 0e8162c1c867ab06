// The part of MaskFinder that looks at a tile: what its mask depends on, and how far the tiles
// after it look the same.
//
// Notation: owners a in [a0, a1], others b in [b0, b1] (hulls of the sets). The tiles that follow
// move b up by `step`, so a condition on b holds for as many further tiles as there is *room* for b
// to grow. Conditions on residues of b repeat instead, in a cycle.

#include <algorithm>
#include <numeric>

#include "plan/masks.h"

namespace lace::plan {
namespace {

constexpr int64_t kMaxCycle = 512;
constexpr int64_t kMaxListColumns = 128;

// Marks in a signature: what the numbers behind them belong to.
enum Mark : int64_t {
  kTerm = -(int64_t{1} << 40),
  kBand,
  kBlocks,
  kModulus,
  kOwnerColumns,
  kOtherColumns,
  kOwnerRanges,
  kOtherRanges,
  kList,
  kGeneral,
  kInside,
  kEdge
};

// Whether all elements of a set are equal mod `period`.
bool one_residue(const IndexSet& set, int64_t period) {
  return set.inner == 1 && set.offsets < 0 && (set.outer == 1 || set.outer_stride % period == 0);
}

enum class Holds { kAll, kNone, kSome };

// How many elements of a set lie in columns, as far as one look at its first stretch tells.
Holds in_columns(const IndexSet& set, const Columns& columns) {
  if (set.offsets >= 0 || (set.outer > 1 && set.outer_stride % columns.period != 0)) {
    return Holds::kSome;
  }
  const int64_t from = floor_mod(set.first - columns.begin, columns.period);
  const int64_t width = columns.end - columns.begin;
  if (from + set.inner <= width) return Holds::kAll;
  return from >= width && from + set.inner <= columns.period ? Holds::kNone : Holds::kSome;
}

// The first range that ends after `position`.
Ranges::const_iterator range_at(const Ranges& ranges, int64_t position) {
  return std::upper_bound(ranges.begin(), ranges.end(), position,
                          [](int64_t p, const Range& range) { return p < range.end; });
}

}  // namespace

void MaskFinder::cycle_of(int64_t period) {
  if (step_ == 0) return;
  const int64_t length = period / std::gcd(period, step_);
  cycle_ = std::min(kMaxCycle + 1, std::lcm(cycle_, std::min(length, kMaxCycle + 1)));
}

void MaskFinder::look_at_all(const View& others, const std::vector<Lattice>& excluded) {
  for (const Lattice& lattice : excluded) {
    if (look_at_excluded(lattice, others)) return;
  }
  bool any = false;
  for (size_t t = 0; t < terms_.own.size(); ++t) {
    any |= look(terms_.own[t], static_cast<int64_t>(t), others);
  }
  if (!any) return;
  any_own_ = true;
  for (size_t e = 0; e < terms_.taken.size(); ++e) {
    look(terms_.taken[e], static_cast<int64_t>(terms_.own.size() + e), others);
  }
}

// −1: the term may have live pairs. Else it has none, nor has any tile with b up to that much
// further.
int64_t MaskFinder::none_room(const Term& term, const View& others) {
  const int64_t a0 = owners_.begin, a1 = owners_.last, b0 = others.begin, b1 = others.last;
  int64_t room = -1;
  const auto none = [&room](int64_t until) { room = std::max(room, until); };
  if (a1 - b0 < term.lo) none(kUnbounded);
  if (a0 - b1 > term.hi) none(a0 - term.hi - 1 - b1);
  for (const auto& [block, lo, hi] : term.block_bands) {
    if (a1 / block - b0 / block < lo) none(kUnbounded);
    if (a0 / block - b1 / block > hi) none(block_begin(a0 / block - hi, block) - 1 - b1);
  }
  if (term.modulus > 1 && step_ % term.modulus == 0 && one_residue(owners_.set, term.modulus) &&
      one_residue(others.set, term.modulus) && (a0 - b0) % term.modulus != 0) {
    none(kUnbounded);
  }
  for (const Columns& columns : term.owner_columns) {
    if (in_columns(owners_.set, columns) == Holds::kNone) none(kUnbounded);
  }
  for (const Columns& columns : term.other_columns) {
    if (step_ % columns.period == 0 && in_columns(others.set, columns) == Holds::kNone) {
      none(kUnbounded);
    }
  }
  if (term.owner_ranges) {
    const auto range = range_at(*term.owner_ranges, a0);
    if (range == term.owner_ranges->end() || range->begin > a1) none(kUnbounded);
  }
  const auto outside = [&](const Ranges& ranges) {
    const auto range = range_at(ranges, b0);
    if (range == ranges.end()) return none(kUnbounded);
    if (range->begin > b1) none(range->begin - 1 - b1);
  };
  if (term.other_ranges) outside(*term.other_ranges);
  for (const auto& list : term.lists) outside(listings_.of(*list).ranges);
  return room;
}

bool MaskFinder::look(const Term& term, int64_t index, const View& others) {
  const int64_t none = none_room(term, others);
  if (none >= 0) {
    room_ = std::min(room_, none);
    return false;
  }
  push(kTerm);
  push(index);
  look_at_bands(term, others);
  look_at_columns(term, others);
  look_at_ranges(term, others);
  for (size_t l = 0; l < term.lists.size(); ++l) {
    push(static_cast<int64_t>(l));
    look_at_list(*term.lists[l], others);
  }
  if (term.general) {
    push(kGeneral);
    push(--unique_);
    room_ = 0;
  }
  return true;
}

void MaskFinder::look_at_bands(const Term& term, const View& others) {
  const int64_t a0 = owners_.begin, a1 = owners_.last, b0 = others.begin, b1 = others.last;
  const bool below = a0 - b1 >= term.lo, above = a1 - b0 <= term.hi;
  if (!below || !above) {
    push(kBand);
    push(a0 - b0);
    room_ = 0;
  } else if (term.lo > -kUnbounded) {
    room_ = std::min(room_, a0 - term.lo - b1);
  }
  for (const auto& [block, lo, hi] : term.block_bands) {
    const int64_t least = a0 / block - b1 / block, most = a1 / block - b0 / block;
    if (least < lo || most > hi) {
      push(kBlocks);
      push(block);
      push(a0 % block);
      push(b0 % block);
      push(a0 / block - b0 / block);
      room_ = 0;
    } else if (lo > -kUnbounded) {
      room_ = std::min(room_, block_begin(a0 / block - lo + 1, block) - 1 - b1);
    }
  }
  if (term.modulus == 1) return;
  const bool all = step_ % term.modulus == 0 && one_residue(owners_.set, term.modulus) &&
                   one_residue(others.set, term.modulus);  // then equal: look() saw pairs
  if (all) return;
  push(kModulus);
  push(floor_mod(a0 - b0, term.modulus));
  cycle_of(term.modulus);
}

void MaskFinder::look_at_columns(const Term& term, const View& others) {
  for (const Columns& columns : term.owner_columns) {
    if (in_columns(owners_.set, columns) == Holds::kAll) continue;
    push(kOwnerColumns);
    push(columns.period);
    push(owners_.begin % columns.period);
  }
  for (const Columns& columns : term.other_columns) {
    const bool steady = step_ % columns.period == 0;
    if (steady && in_columns(others.set, columns) == Holds::kAll) continue;
    push(kOtherColumns);
    push(columns.period);
    push(others.begin % columns.period);
    cycle_of(columns.period);
  }
}

void MaskFinder::look_at_ranges(const Term& term, const View& others) {
  const auto edges = [this](Mark mark, const Ranges& ranges, const View& view) {
    push(mark);
    const size_t count_at = signature_.size();
    push(0);
    for (auto range = range_at(ranges, view.begin);
         range != ranges.end() && range->begin <= view.last; ++range) {
      push(std::max<int64_t>(0, range->begin - view.begin));
      push(std::min(range->end, view.last + 1) - view.begin);
      ++signature_[count_at];
    }
  };
  if (term.owner_ranges) {
    const auto range = range_at(*term.owner_ranges, owners_.begin);
    const bool all = range->begin <= owners_.begin && owners_.last < range->end;
    if (!all) edges(kOwnerRanges, *term.owner_ranges, owners_);
  }
  if (term.other_ranges) {
    const auto range = range_at(*term.other_ranges, others.begin);
    if (range->begin <= others.begin && others.last < range->end) {
      room_ = std::min(room_, range->end - 1 - others.last);
    } else {
      edges(kOtherRanges, *term.other_ranges, others);
      room_ = 0;
    }
  }
}

void MaskFinder::look_at_list(const BlockList& list, const View& others) {
  const int64_t block = list.block();
  const int64_t x0 = owners_.begin / block, x1 = owners_.last / block;
  const int64_t y0 = others.begin / block, y1 = others.last / block;
  if (x0 == x1 && y0 == y1) {  // one pair of blocks, and look() saw that it is live
    room_ = std::min(room_, (y1 + 1) * block - 1 - others.last);
    return;
  }
  room_ = 0;
  push(kList);
  if (y1 - y0 >= kMaxListColumns) return push(--unique_);
  push(owners_.begin % block);
  push(others.begin % block);
  for (int64_t y = y0; y <= y1; ++y) {
    const auto seen_by = listings_.of(list).column(y, x0, x1);
    push(static_cast<int64_t>(seen_by.size()));
    for (const BlockPair& pair : seen_by) push(pair.owner() - x0);
  }
}

// True: the lattice holds the whole tile, and so does every tile that `room` reaches.
bool MaskFinder::look_at_excluded(const Lattice& lattice, const View& others) {
  const int64_t b0 = others.begin, b1 = others.last;
  if (b0 >= lattice.end()) return false;
  if (b1 < lattice.begin) {
    room_ = std::min(room_, lattice.begin - 1 - b1);
    return false;
  }
  if (b0 >= lattice.begin && b1 < lattice.end()) {
    room_ = std::min(room_, lattice.end() - 1 - b1);
    if (lattice.interval()) return true;
    push(kInside);
    push(lattice.width);
    push(lattice.period);
    push((b0 - lattice.begin) % lattice.period);
    cycle_of(lattice.period);
    return false;
  }
  push(kEdge);
  push(lattice.width);
  push(lattice.period);
  push(lattice.count);
  push(b0 - lattice.begin);
  room_ = 0;
  return false;
}

}  // namespace lace::plan
