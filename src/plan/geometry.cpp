#include "plan/geometry.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "plan/stored.h"

namespace lace::plan {

void add_columns_in(int64_t period, int64_t begin, int64_t width, Range range, int64_t floor,
                    std::vector<Stripe>& out) {
  if (range.begin >= range.end) return;
  // The first column that ends after range.begin, the last that starts before range.end.
  const int64_t first = floor_div(range.begin - begin - width, period) + 1;
  const int64_t last = ceil_div(range.end - begin, period) - 1;
  int64_t start = begin + first * period;
  int64_t count = last - first + 1;
  if (count > 0 && start < floor) {
    out.push_back({floor, start + width - floor, period});
    start += period;
    --count;
  }
  if (count > 0) out.push_back({start, width, period, count});
}

namespace {

bool same_comb(const Stripe& a, const Stripe& b) {
  return a.period == b.period && a.width == b.width && floor_mod(a.begin - b.begin, a.period) == 0;
}

// Joins stripes of one period, phase and width that overlap or follow each other, and neighbouring
// columns of equal extent.
void join_combs(std::vector<Stripe>& combs) {
  std::sort(combs.begin(), combs.end(),
            [](const Stripe& a, const Stripe& b) { return a.begin < b.begin; });
  std::vector<Stripe> joined;
  for (const Stripe& comb : combs) {
    const auto meets = [&](const Stripe& other) {
      return same_comb(other, comb) && comb.begin <= other.begin + other.count * other.period;
    };
    const auto extends = [&](const Stripe& other) {
      return other.period == comb.period && other.count == comb.count &&
             comb.begin - other.begin <= other.width &&
             comb.begin + comb.width - other.begin < comb.period;
    };
    if (const auto it = std::find_if(joined.begin(), joined.end(), meets); it != joined.end()) {
      const int64_t last = (comb.begin - it->begin) / comb.period + comb.count;
      it->count = std::max(it->count, last);
    } else if (const auto by = std::find_if(joined.begin(), joined.end(), extends);
               by != joined.end()) {
      by->width = std::max(by->width, comb.begin + comb.width - by->begin);
    } else {
      joined.push_back(comb);
    }
  }
  combs = std::move(joined);
}

// Joins what overlaps, and what touches if that saves a tile: apart, each keeps its own place
// relative to the owners, and so its masks.
void join_intervals(std::vector<Stripe>& intervals, int64_t capacity) {
  const auto tiles = [capacity](int64_t width) { return ceil_div(width, capacity); };
  std::sort(intervals.begin(), intervals.end(),
            [](const Stripe& a, const Stripe& b) { return a.begin < b.begin; });
  size_t kept = 0;
  for (size_t s = 1; s < intervals.size(); ++s) {
    Stripe& last = intervals[kept];
    const int64_t width = intervals[s].width;
    const bool touches = intervals[s].begin == last.end() &&
                         tiles(last.width + width) < tiles(last.width) + tiles(width);
    if (intervals[s].begin < last.end() || touches) {
      last.width = std::max(last.end(), intervals[s].end()) - last.begin;
      last.scattered = last.scattered && intervals[s].scattered;
    } else {
      intervals[++kept] = intervals[s];
    }
  }
  if (!intervals.empty()) intervals.resize(kept + 1);
}

// Widens intervals over the columns that their ends cut. True: an interval grew.
bool swallow_cut_columns(std::vector<Stripe>& intervals, const std::vector<Stripe>& combs,
                         int64_t end) {
  bool grew = false;
  for (Stripe& interval : intervals) {
    for (const Stripe& comb : combs) {
      const int64_t before = interval.begin - 1, after = interval.end();
      if (comb.has(before) && comb.has(interval.begin) &&
          (before - comb.begin) / comb.period == (interval.begin - comb.begin) / comb.period) {
        const int64_t start = before - floor_mod(before - comb.begin, comb.period);
        interval.width += interval.begin - start;
        interval.begin = start;
        grew = true;
      }
      if (after < end && comb.has(after) && comb.has(after - 1) &&
          (after - 1 - comb.begin) / comb.period == (after - comb.begin) / comb.period) {
        const int64_t start = after - floor_mod(after - comb.begin, comb.period);
        interval.width = std::min(start + comb.width, end) - interval.begin;
        grew = true;
      }
    }
  }
  return grew;
}

// Takes the columns that lie in the intervals out of a comb.
void subtract_intervals(const Stripe& comb, const std::vector<Stripe>& intervals, int64_t end,
                        std::vector<Stripe>& out) {
  int64_t next = 0;  // the first column that is not dealt with
  for (const Stripe& interval : intervals) {
    const int64_t from = std::max(next, ceil_div(interval.begin - comb.begin, comb.period));
    const int64_t inside = floor_div(interval.end() - comb.begin - comb.width, comb.period) + 1;
    const int64_t to = interval.end() >= end ? comb.count : std::min(comb.count, inside);
    if (from >= to) continue;
    if (from > next) {
      out.push_back({comb.begin + next * comb.period, comb.width, comb.period, from - next});
    }
    next = to;
  }
  if (next < comb.count) {
    out.push_back({comb.begin + next * comb.period, comb.width, comb.period, comb.count - next});
  }
}

// Only the last of several columns may reach past the end.
void clip_single_columns(std::vector<Stripe>& stripes, const Domain& domain) {
  for (Stripe& stripe : stripes) {
    if (stripe.interval()) stripe.width = std::min(stripe.width, domain.end - stripe.begin);
  }
}

// Where combs cover as much as the interval around them, that interval is simpler.
void prefer_hull(std::vector<Stripe>& stripes, const Domain& domain) {
  int64_t begin = domain.end, end = 0, size = 0;
  bool combs = false;
  for (const Stripe& stripe : stripes) {
    begin = std::min(begin, stripe.begin);
    end = std::max(end, std::min(stripe.end(), domain.end));
    size += stripe.size();
    combs |= !stripe.interval();
  }
  if (combs && size >= end - begin) stripes = {{begin, end - begin, end - begin}};
}

}  // namespace

void merge_stripes(std::vector<Stripe>& stripes, bool keep_classes, int64_t capacity,
                   const Domain& domain) {
  if (keep_classes) {
    join_combs(stripes);
    return clip_single_columns(stripes, domain);
  }
  std::vector<Stripe> intervals, combs;
  for (const Stripe& stripe : stripes) (stripe.interval() ? intervals : combs).push_back(stripe);
  if (combs.size() > 1) join_combs(combs);
  do {
    join_intervals(intervals, capacity);
  } while (swallow_cut_columns(intervals, combs, domain.end));
  stripes = intervals;
  for (Stripe& stripe : stripes) stripe.period = stripe.width;
  for (const Stripe& comb : combs) subtract_intervals(comb, intervals, domain.end, stripes);
  clip_single_columns(stripes, domain);
  prefer_hull(stripes, domain);
}

void cut_stripe(const Stripe& stripe, int64_t capacity, std::vector<Cut>& out) {
  const auto set = [](int64_t first, int64_t inner, int64_t outer, int64_t stride) {
    return IndexSet{first, outer > 1 ? stride : 0, static_cast<int32_t>(inner),
                    static_cast<int32_t>(outer), -1};
  };
  if (stripe.interval()) {
    const int64_t tiles = stripe.width / capacity, rest = stripe.width % capacity;
    if (tiles > 0) out.push_back({set(stripe.begin, capacity, 1, 0), capacity, tiles});
    if (rest > 0) out.push_back({set(stripe.begin + tiles * capacity, rest, 1, 0), 0, 1});
    return;
  }
  if (stripe.width > capacity) {
    for (int64_t from = 0; from < stripe.width; from += capacity) {
      const int64_t width = std::min(capacity, stripe.width - from);
      cut_stripe({stripe.begin + from, width, stripe.period, stripe.count}, capacity, out);
    }
    return;
  }
  const int64_t outer = capacity / stripe.width;
  const int64_t tiles = stripe.count / outer, rest = stripe.count % outer;
  const int64_t step = outer * stripe.period;
  if (tiles > 0) {
    out.push_back({set(stripe.begin, stripe.width, outer, stripe.period), step, tiles});
  }
  if (rest > 0) {
    out.push_back({set(stripe.begin + tiles * step, stripe.width, rest, stripe.period), 0, 1});
  }
}

namespace {

// A tile of `firsts` (ascending), each `inner` wide.
IndexSet set_of(const std::vector<int64_t>& firsts, int64_t inner, std::vector<int64_t>& offsets) {
  IndexSet set{firsts[0], 0, static_cast<int32_t>(inner), static_cast<int32_t>(firsts.size()), -1};
  const int64_t stride = firsts.size() > 1 ? firsts[1] - firsts[0] : 0;
  bool affine = true;
  for (size_t f = 1; f < firsts.size(); ++f) affine &= firsts[f] - firsts[f - 1] == stride;
  if (affine && stride == inner) {
    set.inner *= set.outer;
    set.outer = 1;
  } else if (affine) {
    set.outer_stride = stride;
  } else {
    set.offsets = stored(offsets.size(), "offsets");
    for (const int64_t first : firsts) offsets.push_back(first - firsts[0]);
  }
  return set;
}

// Packs short intervals into tiles of stretches of equal width.
void pack(const std::vector<Range>& intervals, int64_t width, int64_t capacity, int32_t stripe,
          std::vector<int64_t>& offsets, std::vector<Cut>& out) {
  std::vector<int64_t> firsts;
  const size_t most = static_cast<size_t>(std::max<int64_t>(1, capacity / width));
  const auto flush = [&] {
    if (!firsts.empty()) out.push_back({set_of(firsts, width, offsets), 0, 1, stripe});
    firsts.clear();
  };
  for (const Range& interval : intervals) {
    for (int64_t first = interval.begin; first < interval.end; first += width) {
      firsts.push_back(first);
      if (firsts.size() == most) flush();
    }
  }
  flush();
}

// Packs by equal lengths, or, where that makes clearly more tiles, in stretches that divide all.
void pack_all(const std::vector<Range>& intervals, int64_t capacity, int32_t stripe,
              std::vector<int64_t>& offsets, std::vector<Cut>& out) {
  std::map<int64_t, std::vector<Range>> by_width;
  int64_t divisor = 0, sum = 0;
  for (const Range& interval : intervals) {
    const int64_t width = interval.end - interval.begin;
    by_width[width].push_back(interval);
    divisor = std::gcd(divisor, width);
    sum += width;
  }
  int64_t tiles = 0;
  for (const auto& [width, same] : by_width) {
    tiles += ceil_div(static_cast<int64_t>(same.size()), std::max<int64_t>(1, capacity / width));
  }
  const int64_t together = ceil_div(sum, capacity / divisor * divisor);
  if (2 * tiles > 3 * together + 1) return pack(intervals, divisor, capacity, stripe, offsets, out);
  for (const auto& [width, same] : by_width) pack(same, width, capacity, stripe, offsets, out);
}

}  // namespace

std::vector<Cut> cut_stripes(const std::vector<Stripe>& stripes, int64_t capacity,
                             std::vector<int64_t>& offsets) {
  std::vector<Cut> cuts;
  std::vector<Range> scattered;
  int32_t first_scattered = 0;
  for (size_t s = 0; s < stripes.size(); ++s) {
    const size_t before = cuts.size();
    cut_stripe(stripes[s], capacity, cuts);
    for (size_t c = before; c < cuts.size(); ++c) cuts[c].stripe = stored(s, "stripes of a tile");
    if (stripes[s].scattered && stripes[s].width % capacity != 0) {
      if (scattered.empty()) first_scattered = stored(s, "stripes of a tile");
      scattered.push_back({cuts.back().set.first, stripes[s].end()});
      cuts.pop_back();
    }
  }
  if (!scattered.empty()) pack_all(scattered, capacity, first_scattered, offsets, cuts);
  return cuts;
}

int64_t end_of(const IndexSet& set, const std::vector<int64_t>& offsets) {
  const int64_t last = set.offsets >= 0 ? offsets[static_cast<size_t>(set.offsets + set.outer - 1)]
                                        : (set.outer - 1) * set.outer_stride;
  return set.first + last + set.inner;
}

int64_t count_before(const IndexSet& set, int64_t end, const std::vector<int64_t>& offsets) {
  if (end_of(set, offsets) <= end) return set.size();
  int64_t count = 0;
  for (int32_t o = 0; o < set.outer; ++o) {
    const int64_t offset =
        set.offsets >= 0 ? offsets[static_cast<size_t>(set.offsets + o)] : o * set.outer_stride;
    count += std::clamp<int64_t>(end - set.first - offset, 0, set.inner);
  }
  return count;
}

namespace {

std::vector<Owners> natural_tiles(int64_t align, const Domain& domain, int64_t capacity) {
  int64_t limit = kUnbounded;
  if (align > 0) limit = align > capacity ? align : capacity / align * align;
  std::vector<Owners> tiles;
  for (int64_t first = domain.owner_begin; first < domain.end;) {
    const int64_t next = std::min({first + capacity, domain.end, (first / limit + 1) * limit});
    tiles.push_back({IndexSet{first, 0, static_cast<int32_t>(next - first), 1, -1}});
    first = next;
  }
  return tiles;
}

// The classes are those of rows, so that every class starts within the first `period` rows.
std::vector<Owners> residue_tiles(int64_t period, const Domain& domain, int64_t capacity) {
  const int64_t rows = domain.end - domain.owner_begin;
  const int64_t longest = ceil_div(rows, period);
  const int64_t pack = 2 * longest <= capacity ? std::min(period, capacity / longest) : 1;
  std::vector<Owners> tiles;
  std::vector<Cut> cuts;
  for (int64_t first = 0; first < std::min(period, rows); first += pack) {
    const int64_t width = std::min(pack, period - first);
    cuts.clear();
    cut_stripe({domain.owner_begin + first, width, period, ceil_div(rows - first, period)},
               capacity, cuts);
    for (const Cut& cut : cuts) {
      for (int64_t t = 0; t < cut.tiles; ++t) {
        tiles.push_back({cut.set, stored(first / pack, "chains"), width});
        tiles.back().set.first += t * cut.step;
      }
    }
  }
  return tiles;
}

std::vector<Owners> stripe_tiles(const std::vector<Stripe>& stripes, const Domain& domain,
                                 int64_t capacity, std::vector<int64_t>& offsets) {
  std::vector<Owners> tiles;
  for (const Cut& cut : cut_stripes(stripes, capacity, offsets)) {
    for (int64_t t = 0; t < cut.tiles; ++t) {
      Owners owners{cut.set};
      owners.set.first += t * cut.step;
      const int64_t room = domain.end - owners.set.first;
      if (room <= 0) continue;  // a part of a column that the end cuts
      if (owners.set.outer == 1) {
        owners.set.inner = static_cast<int32_t>(std::min<int64_t>(owners.set.inner, room));
      }
      tiles.push_back(owners);
    }
  }
  std::stable_sort(tiles.begin(), tiles.end(),
                   [](const Owners& a, const Owners& b) { return a.set.first < b.set.first; });
  return tiles;
}

std::vector<Stripe> range_stripes(const Ranges& ranges) {
  std::vector<Stripe> stripes;
  for (const auto& [begin, end] : ranges) {
    stripes.push_back({begin, end - begin, end - begin, 1, true});
  }
  return stripes;
}

}  // namespace

std::vector<Owners> owner_tiles(const Order& order, const Domain& domain, int64_t capacity,
                                std::vector<int64_t>& offsets) {
  switch (order.kind) {
    case RowOrder::kNatural:
      return natural_tiles(order.align, domain, capacity);
    case RowOrder::kResidue:
      return residue_tiles(order.period, domain, capacity);
    case RowOrder::kColumns: {
      std::vector<Stripe> stripes;
      add_columns_in(order.period, order.begin, order.width, {domain.owner_begin, domain.end},
                     domain.owner_begin, stripes);
      return stripe_tiles(stripes, domain, capacity, offsets);
    }
    case RowOrder::kGlobalRows:
      return stripe_tiles(range_stripes(order.ranges), domain, capacity, offsets);
  }
  return {};
}

std::vector<Owners> unlisted_tiles(const Order& order, const Domain& domain, int64_t capacity,
                                   std::vector<int64_t>& offsets) {
  const Range all{domain.owner_begin, domain.end};
  std::vector<Stripe> stripes;
  if (order.kind == RowOrder::kColumns && order.width < order.period) {
    add_columns_in(order.period, order.begin + order.width, order.period - order.width, all,
                   all.begin, stripes);
  } else if (order.kind == RowOrder::kGlobalRows) {
    stripes = range_stripes(subtract({all}, order.ranges));
  }
  return stripe_tiles(stripes, domain, capacity, offsets);
}

}  // namespace lace::plan
