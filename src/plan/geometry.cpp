#include "plan/geometry.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "plan/stored.h"

namespace lace::plan {

void add_columns_in(int64_t period, int64_t begin, int64_t width, Range range, int64_t floor,
                    std::vector<Lattice>& out) {
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

bool same_comb(const Lattice& a, const Lattice& b) {
  return a.period == b.period && a.width == b.width && floor_mod(a.begin - b.begin, a.period) == 0;
}

// Joins lattices of one period, phase and width that overlap or follow each other, and neighbouring
// columns of equal extent.
void join_combs(std::vector<Lattice>& combs) {
  std::sort(combs.begin(), combs.end(),
            [](const Lattice& a, const Lattice& b) { return a.begin < b.begin; });
  std::vector<Lattice> joined;
  for (const Lattice& comb : combs) {
    const auto meets = [&](const Lattice& other) {
      return same_comb(other, comb) && comb.begin <= other.begin + other.count * other.period;
    };
    const auto extends = [&](const Lattice& other) {
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
void join_intervals(std::vector<Lattice>& intervals, int64_t capacity) {
  const auto tiles = [capacity](int64_t width) { return ceil_div(width, capacity); };
  std::sort(intervals.begin(), intervals.end(),
            [](const Lattice& a, const Lattice& b) { return a.begin < b.begin; });
  size_t kept = 0;
  for (size_t s = 1; s < intervals.size(); ++s) {
    Lattice& last = intervals[kept];
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
bool swallow_cut_columns(std::vector<Lattice>& intervals, const std::vector<Lattice>& combs,
                         int64_t end) {
  bool grew = false;
  for (Lattice& interval : intervals) {
    for (const Lattice& comb : combs) {
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
void subtract_intervals(const Lattice& comb, const std::vector<Lattice>& intervals, int64_t end,
                        std::vector<Lattice>& out) {
  int64_t next = 0;  // the first column that is not dealt with
  for (const Lattice& interval : intervals) {
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
void clip_single_columns(std::vector<Lattice>& lattices, const Domain& domain) {
  for (Lattice& lattice : lattices) {
    if (lattice.interval()) lattice.width = std::min(lattice.width, domain.end - lattice.begin);
  }
}

// Where combs cover as much as the interval around them, that interval is simpler.
void prefer_hull(std::vector<Lattice>& lattices, const Domain& domain) {
  int64_t begin = domain.end, end = 0, size = 0;
  bool combs = false;
  for (const Lattice& lattice : lattices) {
    begin = std::min(begin, lattice.begin);
    end = std::max(end, std::min(lattice.end(), domain.end));
    size += lattice.size();
    combs |= !lattice.interval();
  }
  if (combs && size >= end - begin) lattices = {{begin, end - begin, end - begin}};
}

}  // namespace

void merge_lattices(std::vector<Lattice>& lattices, bool keep_classes, int64_t capacity,
                    const Domain& domain) {
  if (keep_classes) {
    join_combs(lattices);
    return clip_single_columns(lattices, domain);
  }
  std::vector<Lattice> intervals, combs;
  for (const Lattice& lattice : lattices)
    (lattice.interval() ? intervals : combs).push_back(lattice);
  if (combs.size() > 1) join_combs(combs);
  do {
    join_intervals(intervals, capacity);
  } while (swallow_cut_columns(intervals, combs, domain.end));
  lattices = intervals;
  for (Lattice& lattice : lattices) lattice.period = lattice.width;
  for (const Lattice& comb : combs) subtract_intervals(comb, intervals, domain.end, lattices);
  clip_single_columns(lattices, domain);
  prefer_hull(lattices, domain);
}

void cut_lattice(const Lattice& lattice, int64_t capacity, std::vector<Cut>& out) {
  const auto set = [](int64_t first, int64_t inner, int64_t outer, int64_t stride) {
    return IndexSet{first, outer > 1 ? stride : 0, static_cast<int32_t>(inner),
                    static_cast<int32_t>(outer), -1};
  };
  if (lattice.interval()) {
    const int64_t tiles = lattice.width / capacity, rest = lattice.width % capacity;
    if (tiles > 0) out.push_back({set(lattice.begin, capacity, 1, 0), capacity, tiles});
    if (rest > 0) out.push_back({set(lattice.begin + tiles * capacity, rest, 1, 0), 0, 1});
    return;
  }
  if (lattice.width > capacity) {
    for (int64_t from = 0; from < lattice.width; from += capacity) {
      const int64_t width = std::min(capacity, lattice.width - from);
      cut_lattice({lattice.begin + from, width, lattice.period, lattice.count}, capacity, out);
    }
    return;
  }
  const int64_t outer = capacity / lattice.width;
  const int64_t tiles = lattice.count / outer, rest = lattice.count % outer;
  const int64_t step = outer * lattice.period;
  if (tiles > 0) {
    out.push_back({set(lattice.begin, lattice.width, outer, lattice.period), step, tiles});
  }
  if (rest > 0) {
    out.push_back({set(lattice.begin + tiles * step, lattice.width, rest, lattice.period), 0, 1});
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
void pack(const std::vector<Range>& intervals, int64_t width, int64_t capacity, int32_t lattice,
          std::vector<int64_t>& offsets, std::vector<Cut>& out) {
  std::vector<int64_t> firsts;
  const size_t most = static_cast<size_t>(std::max<int64_t>(1, capacity / width));
  const auto flush = [&] {
    if (!firsts.empty()) out.push_back({set_of(firsts, width, offsets), 0, 1, lattice});
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
void pack_all(const std::vector<Range>& intervals, int64_t capacity, int32_t lattice,
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
  if (2 * tiles > 3 * together + 1)
    return pack(intervals, divisor, capacity, lattice, offsets, out);
  for (const auto& [width, same] : by_width) pack(same, width, capacity, lattice, offsets, out);
}

}  // namespace

std::vector<Cut> cut_lattices(const std::vector<Lattice>& lattices, int64_t capacity,
                              std::vector<int64_t>& offsets) {
  std::vector<Cut> cuts;
  std::vector<Range> scattered;
  int32_t first_scattered = 0;
  for (size_t s = 0; s < lattices.size(); ++s) {
    const size_t before = cuts.size();
    cut_lattice(lattices[s], capacity, cuts);
    for (size_t c = before; c < cuts.size(); ++c) cuts[c].lattice = stored(s, "lattices of a tile");
    if (lattices[s].scattered && lattices[s].width % capacity != 0) {
      if (scattered.empty()) first_scattered = stored(s, "lattices of a tile");
      scattered.push_back({cuts.back().set.first, lattices[s].end()});
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

std::vector<OwnerSet> natural_tiles(int64_t align, const Domain& domain, int64_t capacity) {
  int64_t limit = kUnbounded;
  if (align > 0) limit = align > capacity ? align : capacity / align * align;
  std::vector<OwnerSet> tiles;
  for (int64_t first = domain.owner_begin; first < domain.end;) {
    const int64_t next = std::min({first + capacity, domain.end, (first / limit + 1) * limit});
    tiles.push_back({IndexSet{first, 0, static_cast<int32_t>(next - first), 1, -1}});
    first = next;
  }
  return tiles;
}

// The classes are those of rows, so that every class starts within the first `period` rows.
std::vector<OwnerSet> residue_tiles(int64_t period, const Domain& domain, int64_t capacity) {
  const int64_t rows = domain.end - domain.owner_begin;
  const int64_t longest = ceil_div(rows, period);
  const int64_t pack = 2 * longest <= capacity ? std::min(period, capacity / longest) : 1;
  std::vector<OwnerSet> tiles;
  std::vector<Cut> cuts;
  for (int64_t first = 0; first < std::min(period, rows); first += pack) {
    const int64_t width = std::min(pack, period - first);
    cuts.clear();
    cut_lattice({domain.owner_begin + first, width, period, ceil_div(rows - first, period)},
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

std::vector<OwnerSet> lattice_tiles(const std::vector<Lattice>& lattices, const Domain& domain,
                                    int64_t capacity, std::vector<int64_t>& offsets) {
  std::vector<OwnerSet> tiles;
  for (const Cut& cut : cut_lattices(lattices, capacity, offsets)) {
    for (int64_t t = 0; t < cut.tiles; ++t) {
      OwnerSet owners{cut.set};
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
                   [](const OwnerSet& a, const OwnerSet& b) { return a.set.first < b.set.first; });
  return tiles;
}

std::vector<Lattice> range_lattices(const Ranges& ranges) {
  std::vector<Lattice> lattices;
  for (const auto& [begin, end] : ranges) {
    lattices.push_back({begin, end - begin, end - begin, 1, true});
  }
  return lattices;
}

}  // namespace

std::vector<OwnerSet> owner_tiles(const Order& order, const Domain& domain, int64_t capacity,
                                  std::vector<int64_t>& offsets) {
  switch (order.kind) {
    case RowOrder::kNatural:
      return natural_tiles(order.align, domain, capacity);
    case RowOrder::kResidue:
      return residue_tiles(order.period, domain, capacity);
    case RowOrder::kColumns: {
      std::vector<Lattice> lattices;
      add_columns_in(order.period, order.begin, order.width, {domain.owner_begin, domain.end},
                     domain.owner_begin, lattices);
      return lattice_tiles(lattices, domain, capacity, offsets);
    }
    case RowOrder::kGlobalRows:
      return lattice_tiles(range_lattices(order.ranges), domain, capacity, offsets);
  }
  return {};
}

std::vector<OwnerSet> unlisted_tiles(const Order& order, const Domain& domain, int64_t capacity,
                                     std::vector<int64_t>& offsets) {
  const Range all{domain.owner_begin, domain.end};
  std::vector<Lattice> lattices;
  if (order.kind == RowOrder::kColumns && order.width < order.period) {
    add_columns_in(order.period, order.begin + order.width, order.period - order.width, all,
                   all.begin, lattices);
  } else if (order.kind == RowOrder::kGlobalRows) {
    lattices = range_lattices(subtract({all}, order.ranges));
  }
  return lattice_tiles(lattices, domain, capacity, offsets);
}

}  // namespace lace::plan
