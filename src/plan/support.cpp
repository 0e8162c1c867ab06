#include <algorithm>

#include "plan/geometry.h"

namespace lace::plan {
namespace {

// Narrows [first, last] to the span of the positions in it that lie in `columns`.
void narrow_to_columns(const Columns& columns, Range& span) {
  std::vector<Lattice> lattices;
  add_columns_in(columns.period, columns.begin, columns.end - columns.begin, span, span.begin,
                 lattices);
  if (lattices.empty()) {
    span.end = span.begin;
  } else {
    span = {lattices.front().begin, std::min(span.end, lattices.back().end())};
  }
}

void narrow_to_ranges(const Ranges& ranges, Range& span) {
  const Ranges live = intersect({span}, ranges);
  span = live.empty() ? Range{span.begin, span.begin} : Range{live.front().begin, live.back().end};
}

// The span of the owners that may have a live pair.
Range owner_span(const Term& term, const OwnerSet& owners, const Domain& domain,
                 const std::vector<int64_t>& offsets) {
  Range span{owners.set.first, std::min(end_of(owners.set, offsets), domain.end)};
  if (term.owner_ranges) narrow_to_ranges(*term.owner_ranges, span);
  for (const Columns& columns : term.owner_columns) {
    if (span.begin < span.end) narrow_to_columns(columns, span);
  }
  return span;
}

// The others that the bands let these owners see.
Range other_span(const Term& term, const Range& owners, const Domain& domain) {
  const int64_t first = owners.begin, last = owners.end - 1;
  Range span{std::max(domain.other_begin, first - term.hi),
             std::min(domain.end, last - term.lo + 1)};
  for (const auto& [block, lo, hi] : term.block_bands) {
    span.begin = std::max(span.begin, block_begin(first / block - hi, block));
    span.end = std::min(span.end, block_begin(last / block - lo + 1, block));
  }
  return span;
}

// The lattice structure of a term within one interval of others.
void add_lattices(const Term& term, const Order& order, const OwnerSet& owners,
                  const Range& owner_span, const Range& span, bool scattered, const Domain& domain,
                  std::vector<Lattice>& out) {
  if (order.kind == RowOrder::kResidue) {
    add_columns_in(order.period, owners.set.first, owners.class_width, span, domain.other_begin,
                   out);
    return;
  }
  int64_t period = 0, begin = 0, width = 0;
  const auto prefer = [&](int64_t new_period, int64_t new_begin, int64_t new_width) {
    if (new_width >= new_period) return;
    if (period == 0 || new_width * period < width * new_period) {
      period = new_period, begin = new_begin, width = new_width;
    }
  };
  for (const Columns& columns : term.other_columns) {
    prefer(columns.period, columns.begin, columns.end - columns.begin);
  }
  if (term.modulus > 1) {
    prefer(term.modulus, owner_span.begin, owner_span.end - owner_span.begin);
  }
  if (period == 0) {
    out.push_back({span.begin, span.end - span.begin, span.end - span.begin, 1, scattered});
  } else {
    add_columns_in(period, begin, width, span, domain.other_begin, out);
  }
}

}  // namespace

std::span<const BlockPair> Listing::column(int64_t other, int64_t first, int64_t last) const {
  const auto begin = std::lower_bound(pairs.begin(), pairs.end(), BlockPair(other, first));
  auto end = begin;
  while (end != pairs.end() && !(BlockPair(other, last) < *end)) ++end;
  return {begin, end};
}

void Listings::set_owners(const IndexSet& set, int64_t end) {
  end = std::min(end, end_of(set, offsets_));
  if (set == owners_ && end == end_) return;
  owners_ = set;
  end_ = end;
  count_ = 0;
}

const Listing& Listings::of(const BlockList& list) {
  const auto known = listings_.begin() + static_cast<int64_t>(count_);
  const auto found = std::find_if(
      listings_.begin(), known, [&list](const Listing& listing) { return listing.list == &list; });
  if (found != known) return *found;
  if (count_ == listings_.size()) listings_.emplace_back();
  Listing& listing = listings_[count_++];
  listing.list = &list;
  fill(listing);
  return listing;
}

void Listings::fill(Listing& listing) const {
  const int64_t block = listing.list->block();
  listing.pairs.clear();
  int64_t done = -1;
  for (int32_t o = 0; o < owners_.outer; ++o) {
    const int64_t offset = owners_.offsets >= 0 ? offsets_[static_cast<size_t>(owners_.offsets + o)]
                                                : o * owners_.outer_stride;
    const int64_t first = owners_.first + offset;
    const int64_t last = std::min(first + owners_.inner, end_) - 1;
    for (int64_t x = std::max(done + 1, first / block); x <= last / block; ++x) {
      for (const int64_t y : listing.list->row(x)) listing.pairs.emplace_back(y, x);
      done = x;
    }
  }
  std::sort(listing.pairs.begin(), listing.pairs.end());
  listing.ranges.clear();
  for (const BlockPair& pair : listing.pairs) {
    const int64_t begin = pair.other() * block, end = begin + block;
    if (listing.ranges.empty() || listing.ranges.back().end < begin) {
      listing.ranges.push_back({begin, end});
    } else {
      listing.ranges.back().end = end;
    }
  }
}

void add_support(const Term& term, const Order& order, const OwnerSet& owners, const Domain& domain,
                 const std::vector<int64_t>& offsets, Listings& listings,
                 std::vector<Lattice>& out) {
  const Range mine = owner_span(term, owners, domain, offsets);
  if (mine.begin >= mine.end) return;
  const Range span = other_span(term, mine, domain);
  if (span.begin >= span.end) return;
  const bool scattered = term.other_ranges || !term.lists.empty();
  if (!scattered) return add_lattices(term, order, owners, mine, span, false, domain, out);
  Ranges ranges{span};
  if (term.other_ranges) ranges = intersect(ranges, *term.other_ranges);
  for (const auto& list : term.lists) ranges = intersect(ranges, listings.of(*list).ranges);
  for (const Range& range : ranges) {
    add_lattices(term, order, owners, mine, range, true, domain, out);
  }
}

}  // namespace lace::plan
