#include "plan/terms.h"

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <numeric>
#include <utility>

#include "pattern/atoms.h"

namespace lace::plan {

Ranges intersect(const Ranges& a, const Ranges& b) {
  Ranges both;
  for (size_t x = 0, y = 0; x < a.size() && y < b.size();) {
    const int64_t begin = std::max(a[x].begin, b[y].begin), end = std::min(a[x].end, b[y].end);
    if (begin < end) both.push_back({begin, end});
    a[x].end < b[y].end ? ++x : ++y;
  }
  return both;
}

Ranges subtract(const Ranges& a, const Ranges& b) {
  Ranges gaps;
  int64_t begin = -kUnbounded;
  for (const Range& range : b) {
    if (begin < range.begin) gaps.push_back({begin, range.begin});
    begin = range.end;
  }
  gaps.push_back({begin, kUnbounded});
  return intersect(a, gaps);
}

void coalesce(Ranges& ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& x, const Range& y) { return x.begin < y.begin; });
  size_t kept = 0;
  for (size_t r = 1; r < ranges.size(); ++r) {
    if (ranges[r].begin <= ranges[kept].end) {
      ranges[kept].end = std::max(ranges[kept].end, ranges[r].end);
    } else {
      ranges[++kept] = ranges[r];
    }
  }
  if (!ranges.empty()) ranges.resize(kept + 1);
}

bool contains(const Ranges& ranges, int64_t position) {
  const auto after =
      std::upper_bound(ranges.begin(), ranges.end(), position,
                       [](int64_t p, const Range& range) { return p < range.begin; });
  return after != ranges.begin() && position < std::prev(after)->end;
}

std::span<const int32_t> BlockList::Rows::of(int64_t index) const {
  const size_t row = static_cast<size_t>(index);
  if (index < 0 || row + 1 >= begins.size()) return {};
  return {blocks.data() + begins[row], blocks.data() + begins[row + 1]};
}

BlockList::Rows BlockList::Rows::transposed() const {
  Rows other;
  other.begins.assign(begins.size(), 0);
  for (const int32_t y : blocks) ++other.begins[static_cast<size_t>(y) + 1];
  std::partial_sum(other.begins.begin(), other.begins.end(), other.begins.begin());
  other.blocks.resize(blocks.size());
  std::vector<int64_t> next = other.begins;
  for (size_t x = 0; x + 1 < begins.size(); ++x) {
    for (const int32_t y : of(static_cast<int64_t>(x))) {
      int64_t& place = next[static_cast<size_t>(y)];
      other.blocks[static_cast<size_t>(place++)] = static_cast<int32_t>(x);
    }
  }
  return other;
}

BlockList::BlockList(int64_t block, int64_t first, int64_t blocks, Draw draw, bool transposed)
    : block_(block),
      first_(first),
      blocks_(blocks),
      draw_(std::move(draw)),
      transposed_(transposed) {}

const BlockList::Rows& BlockList::drawn() const {
  static_assert(pattern::kMaxArgument <= INT32_MAX, "blocks are named by 32 bits");
  std::call_once(once_, [this] {
    std::vector<int64_t> row;
    for (int64_t query = 0; query < blocks_; ++query) {
      if (query >= first_) {
        draw_(query, row);
        drawn_.blocks.insert(drawn_.blocks.end(), row.begin(), row.end());
      }
      drawn_.begins.push_back(static_cast<int64_t>(drawn_.blocks.size()));
    }
    if (transposed_) drawn_ = drawn_.transposed();
  });
  return drawn_;
}

std::span<const int32_t> BlockList::row(int64_t owner_block) const {
  return drawn().of(owner_block);
}

bool BlockList::live(int64_t owner_block, int64_t other_block) const {
  const auto seen = row(owner_block);
  return std::binary_search(seen.begin(), seen.end(), other_block);
}

void BlockList::draw(int64_t owner_block, std::vector<int64_t>& row) const {
  assert(!transposed_);
  row.clear();
  if (first_ <= owner_block && owner_block < blocks_) draw_(owner_block, row);
}

bool General::live(int64_t owner, int64_t other) const {
  const int64_t query = transposed ? other : owner, key = transposed ? owner : other;
  const int64_t k_len = pattern->k_len();
  return query < k_len && key < k_len && pattern->attends(head, query, key);
}

bool Term::live(int64_t a, int64_t b) const {
  const int64_t distance = a - b;
  if (distance < lo || distance > hi || distance % modulus != 0) return false;
  for (const BlockBand& band : block_bands) {
    const int64_t blocks = a / band.block - b / band.block;
    if (blocks < band.lo || blocks > band.hi) return false;
  }
  for (const Columns& columns : owner_columns) {
    if (!columns.has(a)) return false;
  }
  for (const Columns& columns : other_columns) {
    if (!columns.has(b)) return false;
  }
  if (owner_ranges && !contains(*owner_ranges, a)) return false;
  if (other_ranges && !contains(*other_ranges, b)) return false;
  for (const auto& list : lists) {
    if (!list->live(a / list->block(), b / list->block())) return false;
  }
  return !general || general->live(a, b);
}

namespace {

void add_block_band(std::vector<BlockBand>& bands, const BlockBand& band) {
  for (BlockBand& other : bands) {
    if (other.block == band.block) {
      other.lo = std::max(other.lo, band.lo);
      other.hi = std::min(other.hi, band.hi);
      return;
    }
  }
  bands.push_back(band);
}

void add_columns(std::vector<Columns>& all, const Columns& columns) {
  for (Columns& other : all) {
    if (other.period == columns.period) {
      other.begin = std::max(other.begin, columns.begin);
      other.end = std::min(other.end, columns.end);
      return;
    }
  }
  all.push_back(columns);
}

void add_ranges(std::optional<Ranges>& ranges, const Ranges& more) {
  ranges = ranges ? intersect(*ranges, more) : more;
}

// Drops the block bands that always hold, makes those of blocks of 1 part of the band.
bool simplify_block_bands(Term& term, const Domain& domain) {
  std::vector<BlockBand> kept;
  for (const BlockBand& band : term.block_bands) {
    if (band.lo > band.hi) return false;
    if (band.block == 1) {
      term.lo = std::max(term.lo, band.lo);
      term.hi = std::min(term.hi, band.hi);
      continue;
    }
    const int64_t most = (domain.end - 1) / band.block;
    if (band.lo > most || band.hi < -most) return false;
    const int64_t least_seen = std::max(-most, floor_div(term.lo, band.block));
    const int64_t most_seen = std::min(most, ceil_div(term.hi, band.block));
    if (band.lo > most_seen || band.hi < least_seen) return false;
    const bool below = band.lo <= least_seen, above = band.hi >= most_seen;
    if (below && above) continue;
    kept.push_back({band.block, below ? -kUnbounded : band.lo, above ? kUnbounded : band.hi});
  }
  term.block_bands = std::move(kept);
  return true;
}

// Clips the band to the differences that occur and to multiples of the modulus.
bool simplify_band(Term& term, const Domain& domain) {
  const int64_t most = domain.end - 1 - domain.other_begin;
  const int64_t least = domain.owner_begin - (domain.end - 1);
  if (term.modulus > 1) {
    const int64_t lo = std::max(term.lo, least), hi = std::min(term.hi, most);
    const int64_t first = ceil_div(lo, term.modulus) * term.modulus;
    const int64_t last = floor_div(hi, term.modulus) * term.modulus;
    if (first > last) return false;
    if (first == last) {
      term.lo = term.hi = first;
      term.modulus = 1;
    } else {
      if (term.lo > least) term.lo = first;
      if (term.hi < most) term.hi = last;
    }
  }
  if (term.lo > most || term.hi < least || term.lo > term.hi) return false;
  if (term.lo <= least) term.lo = -kUnbounded;
  if (term.hi >= most) term.hi = kUnbounded;
  return true;
}

bool simplify_columns(std::vector<Columns>& all, std::optional<Ranges>& ranges, int64_t end) {
  std::vector<Columns> kept;
  for (const Columns& columns : all) {
    if (columns.begin >= columns.end) return false;
    if (columns.period >= end) {
      add_ranges(ranges, {{columns.begin, columns.end}});
    } else if (columns.begin > 0 || columns.end < columns.period) {
      kept.push_back(columns);
    }
  }
  all = std::move(kept);
  return true;
}

bool simplify_ranges(std::optional<Ranges>& ranges, int64_t begin, int64_t end) {
  if (!ranges) return true;
  *ranges = intersect(*ranges, {{begin, end}});
  if (ranges->empty()) return false;
  if (ranges->front() == Range{begin, end}) ranges.reset();
  return true;
}

}  // namespace

bool simplify(Term& term, const Domain& domain) {
  if (!simplify_block_bands(term, domain) || !simplify_band(term, domain)) return false;
  // Where the modulus is a multiple of the period, a and b lie in the same column.
  for (auto [from, to] : {std::pair(&term.owner_columns, &term.other_columns),
                          std::pair(&term.other_columns, &term.owner_columns)}) {
    for (const Columns& columns : std::vector<Columns>(*from)) {
      if (term.modulus % columns.period == 0) add_columns(*to, columns);
    }
  }
  return simplify_columns(term.owner_columns, term.owner_ranges, domain.end) &&
         simplify_columns(term.other_columns, term.other_ranges, domain.end) &&
         simplify_ranges(term.owner_ranges, domain.owner_begin, domain.end) &&
         simplify_ranges(term.other_ranges, domain.other_begin, domain.end);
}

std::optional<Term> conjunction(const Term& a, const Term& b, const Domain& domain) {
  Term both = a;
  both.lo = std::max(a.lo, b.lo);
  both.hi = std::min(a.hi, b.hi);
  // Past the last position every modulus means a = b; clipping it keeps the product small.
  const int64_t gcd = std::gcd(a.modulus, b.modulus);
  const int64_t factor = b.modulus / gcd;
  both.modulus = factor > (2 * domain.end) / a.modulus ? 2 * domain.end : a.modulus * factor;
  for (const BlockBand& band : b.block_bands) add_block_band(both.block_bands, band);
  for (const Columns& columns : b.owner_columns) add_columns(both.owner_columns, columns);
  for (const Columns& columns : b.other_columns) add_columns(both.other_columns, columns);
  if (b.owner_ranges) add_ranges(both.owner_ranges, *b.owner_ranges);
  if (b.other_ranges) add_ranges(both.other_ranges, *b.other_ranges);
  for (const auto& list : b.lists) {
    if (std::find(both.lists.begin(), both.lists.end(), list) == both.lists.end()) {
      both.lists.push_back(list);
    }
  }
  if (!both.general) both.general = b.general;
  if (!simplify(both, domain)) return std::nullopt;
  return both;
}

namespace {

bool subset(const std::optional<Ranges>& inner, const std::optional<Ranges>& outer) {
  return !outer || (inner && intersect(*inner, *outer) == *inner);
}

bool multiple_of(const Term& term, int64_t modulus) {
  return term.modulus % modulus == 0 || (term.lo == term.hi && term.lo % modulus == 0);
}

bool has_columns(const std::vector<Columns>& all, const Columns& wanted) {
  return std::any_of(all.begin(), all.end(), [&](const Columns& columns) {
    return columns.period == wanted.period && wanted.begin <= columns.begin &&
           columns.end <= wanted.end;
  });
}

// The differences of blocks that a term allows, as far as its constraints show.
BlockBand block_differences(const Term& term, int64_t block) {
  BlockBand seen{block, floor_div(term.lo, block), ceil_div(term.hi, block)};
  for (const BlockBand& band : term.block_bands) {
    if (band.block == block) {
      seen.lo = std::max(seen.lo, band.lo);
      seen.hi = std::min(seen.hi, band.hi);
    }
  }
  return seen;
}

// The constraints of `outer` that `inner` does not meet by its own, up to two of them.
struct Unmet {
  int count = 0;
  bool band_lo = false, band_hi = false, owner_ranges = false, other_ranges = false;
  std::optional<BlockBand> block_lo, block_hi;
};

Unmet unmet(const Term& inner, const Term& outer) {
  Unmet found;
  found.band_lo = outer.lo > inner.lo;
  found.band_hi = outer.hi < inner.hi;
  found.owner_ranges = !subset(inner.owner_ranges, outer.owner_ranges);
  found.other_ranges = !subset(inner.other_ranges, outer.other_ranges);
  found.count = found.band_lo + found.band_hi + found.owner_ranges + found.other_ranges;
  for (const BlockBand& band : outer.block_bands) {
    const BlockBand seen = block_differences(inner, band.block);
    if (band.lo > seen.lo) {
      found.block_lo = band;
      ++found.count;
    }
    if (band.hi < seen.hi) {
      found.block_hi = band;
      ++found.count;
    }
  }
  // What no narrowing expresses counts twice.
  if (!multiple_of(inner, outer.modulus)) found.count += 2;
  for (const Columns& columns : outer.owner_columns) {
    if (!has_columns(inner.owner_columns, columns)) found.count += 2;
  }
  for (const Columns& columns : outer.other_columns) {
    if (!has_columns(inner.other_columns, columns)) found.count += 2;
  }
  for (const auto& list : outer.lists) {
    const bool shared =
        std::find(inner.lists.begin(), inner.lists.end(), list) != inner.lists.end();
    if (!shared) found.count += 2;
  }
  if (outer.general && outer.general != inner.general) found.count += 2;
  return found;
}

Ranges everywhere() { return {{0, kUnbounded}}; }

}  // namespace

bool inside(const Term& inner, const Term& outer) { return unmet(inner, outer).count == 0; }

Remainder take_away(Term& term, const Term& taken, const Domain& domain) {
  if (!conjunction(term, taken, domain)) return Remainder::kAll;
  const Unmet missing = unmet(term, taken);
  if (missing.count == 0) return Remainder::kNone;
  if (missing.count > 1) return Remainder::kNotATerm;
  if (missing.band_lo) term.hi = std::min(term.hi, taken.lo - 1);
  if (missing.band_hi) term.lo = std::max(term.lo, taken.hi + 1);
  if (missing.block_lo) {
    const auto [block, lo, hi] = *missing.block_lo;
    add_block_band(term.block_bands, {block, -kUnbounded, lo - 1});
  }
  if (missing.block_hi) {
    const auto [block, lo, hi] = *missing.block_hi;
    add_block_band(term.block_bands, {block, hi + 1, kUnbounded});
  }
  if (missing.owner_ranges) {
    term.owner_ranges = subtract(term.owner_ranges.value_or(everywhere()), *taken.owner_ranges);
  }
  if (missing.other_ranges) {
    term.other_ranges = subtract(term.other_ranges.value_or(everywhere()), *taken.other_ranges);
  }
  return simplify(term, domain) ? Remainder::kNarrowed : Remainder::kNone;
}

}  // namespace lace::plan
