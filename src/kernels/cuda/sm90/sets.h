#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/section_order.h"  // LACE_HOST_DEVICE
#include "kernels/cuda/sm90/work.h"
#include "kernels/kernel.h"

namespace lace::sm90 {

// Which elements of a tile there are: index arithmetic of the kernels, on the host for tests.

// One of an array that kernels only read.
template <typename T>
LACE_HOST_DEVICE inline T read(const T* element) {
#ifdef __CUDA_ARCH__
  return __ldg(element);
#else
  return *element;
#endif
}

// The elements [begin, end) of a tile, end < 256, in one number: `end` where they are the first
// ones, and less than 0 where they are not. So only a tile with all of them compares as no less
// than its size.
LACE_HOST_DEVICE inline int32_t pack_range(int32_t begin, int32_t end) { return end - 256 * begin; }
LACE_HOST_DEVICE inline int32_t range_end(int32_t range) { return range & 255; }
LACE_HOST_DEVICE inline int32_t range_begin(int32_t range) {
  return (range_end(range) - range) >> 8;
}
LACE_HOST_DEVICE inline bool in_range(int32_t range, int32_t element) {
  const int32_t begin = range_begin(range), count = range_end(range) - begin;
  return static_cast<uint32_t>(element - begin) < static_cast<uint32_t>(count);
}

// Where stretch `o` of `set` begins, from its first element.
LACE_HOST_DEVICE inline int32_t offset_of(const WorkSet& set, const int32_t* offsets, int32_t o) {
  return set.offsets >= 0 ? read(offsets + set.offsets + o) : o * set.stride;
}

// The position of element e of `set`.
LACE_HOST_DEVICE inline int32_t position_in(const WorkSet& set, const int32_t* offsets, int32_t e) {
  if (set.outer == 1) return set.first + e;
  const int32_t o = set.inner == 1 ? e : e / set.inner;
  return set.first + offset_of(set, offsets, o) + (e - o * set.inner);
}

// How many elements of `set`, moved by `shift`, lie before `end`: they are the first ones.
LACE_HOST_DEVICE inline int32_t count_before(const WorkSet& set, const int32_t* offsets,
                                             int32_t shift, int32_t end) {
  const int32_t room = end - set.first - shift;  // for offset + i
  if (offset_of(set, offsets, set.outer - 1) + set.inner <= room) return set.inner * set.outer;
  if (room <= 0) return 0;
  if (set.outer == 1) return room;
  if (set.offsets < 0) {
    const int32_t whole = room < set.inner ? 0 : (room - set.inner) / set.stride + 1;
    const int32_t rest = room - whole * set.stride;  // of the stretch after them
    return whole * set.inner + (rest < 0 ? 0 : rest < set.inner ? rest : set.inner);
  }
  int32_t count = 0;
  for (int32_t o = 0; o < set.outer; ++o) {
    const int32_t left = room - read(offsets + set.offsets + o);
    if (left <= 0) break;
    count += left < set.inner ? left : set.inner;
  }
  return count;
}

// The elements of `set`, moved by `shift`, at positions [begin, end), as pack_range() has them.
LACE_HOST_DEVICE inline int32_t range_between(const WorkSet& set, const int32_t* offsets,
                                              int32_t shift, int32_t begin, int32_t end) {
  int32_t range = 0;
#ifdef __CUDA_ARCH__
#pragma unroll 1  // registers are few
#endif
  for (int i = set.first + shift < begin ? 0 : 1; i < 2; ++i) {
    const int32_t count = count_before(set, offsets, shift, i == 0 ? begin : end);
    range = i == 0 ? -256 * count : range + count;
  }
  return range;
}

// Whether positions [begin, end) and those between the first and the last of `set` meet.
LACE_HOST_DEVICE inline bool may_meet(const WorkSet& set, const int32_t* offsets, int32_t begin,
                                      int32_t end) {
  const int32_t last = set.first + offset_of(set, offsets, set.outer - 1) + set.inner - 1;
  return begin < end && set.first < end && last >= begin;
}

// Tiles [begin, end) of a run.
struct TileRange {
  int32_t begin = 0, end = 0;
};

// Those that may_meet() positions [begin, end).
LACE_HOST_DEVICE inline TileRange tiles_between(const WorkRun& run, const int32_t* offsets,
                                                int32_t begin, int32_t end) {
  const WorkSet& set = run.others;
  const int32_t room = end - set.first;
  if (begin >= end || room <= 0 || run.tiles == 0) return {};
  const bool moves = run.tiles > 1;
  const int32_t most =
      moves && (room - 1) / run.step + 1 < run.tiles ? (room - 1) / run.step + 1 : run.tiles;
  const int32_t early =
      begin - (set.first + offset_of(set, offsets, set.outer - 1) + set.inner - 1);
  int32_t least = 0;
  if (early > 0) least = moves ? (early + run.step - 1) / run.step : 1;
  return {least < most ? least : most, most};
}

// What an item may load of owners or of others; kCut: by a sequence. extent: positions that there
// are, of the plan's [0, length); end: map_end(), 0 without sequences.
template <bool kCut>
struct Side {
  static constexpr bool cut = true;
  const Extent& extent;
  const int32_t& end;
  int32_t length;
};
template <>
struct Side<false> {
  static constexpr bool cut = false;
  Extent extent;
  int32_t end, length;
  LACE_HOST_DEVICE explicit Side(int32_t all) : extent{0, all, 0}, end(0), length(all) {}
};
// Of the others, in shared memory of the warp's own, as registers are few.
struct SideMemory {
  Extent extent;
  int32_t end;
};

// The row behind the last one of a sequence that the map of `set` shows (tensor_maps.h).
LACE_HOST_DEVICE inline int32_t map_end(const WorkSet& set, const Extent& extent) {
  const bool periods = set.map >= kNaturalMaps;
  return extent.row + extent.end - (periods ? extent.end % set.stride : 0);
}

// Where the box of a tile begins in its map, if it is one: a row within the period, and the period.
// With sequences they are counted so that the map ends where the sequence does (tensor_maps.h).
struct BoxPlace {
  int32_t row, period = 0;
  template <bool kCut>
  LACE_HOST_DEVICE BoxPlace(const WorkSet& set, int32_t shift, const Side<kCut>& side)
      : row(set.first + shift) {
    if (set.map >= kNaturalMaps) {
      period = row / set.stride;
      row -= period * set.stride;
      if (side.cut) period += set.rows_full - side.extent.end / set.stride;
    } else if (side.cut) {
      row += side.length - side.extent.end;
    }
  }
};

// The tiles of a run in turn, from `tile` on.
struct TileWalk {
  int32_t shift;  // from the first tile
  BoxPlace place;
  int32_t step_periods;  // from tile to tile
  template <bool kCut>
  LACE_HOST_DEVICE TileWalk(const WorkRun& run, const Side<kCut>& side, int32_t tile)
      : shift(tile * run.step),
        place(run.others, shift, side),
        step_periods(run.others.map >= kNaturalMaps ? run.step / run.others.stride : 0) {}
  // Whether all its elements are there, and in whole periods.
  template <bool kCut>
  LACE_HOST_DEVICE bool is_whole(const WorkSet& set, const Side<kCut>& side) const {
    const int32_t first = set.first + shift;
    if (side.cut && first < side.extent.begin) return false;
    const int32_t end = first + (set.outer - 1) * set.stride + set.inner;
    return end <= side.extent.end && place.period + set.outer <= set.rows_full;
  }
  // Which elements of the tile there are; whole: as is_whole() says.
  template <bool kCut>
  LACE_HOST_DEVICE int32_t range(const WorkSet& set, const int32_t* offsets, bool whole,
                                 const Side<kCut>& side) const {
    if (whole) return set.inner * set.outer;
    if constexpr (!kCut) return count_before(set, offsets, shift, side.extent.end);
    return range_between(set, offsets, shift, side.extent.begin, side.extent.end);
  }
  LACE_HOST_DEVICE void next(const WorkRun& run) {
    if (run.others.map < kNaturalMaps) place.row += run.step;
    place.period += step_periods, shift += run.step;
  }
};

// Whether one box reads the elements `range` of `set`, moved by `shift`, and with sequences all
// rows of a tile of `rows` in shared memory. place: of the moved set.
template <bool kCut>
LACE_HOST_DEVICE inline bool is_box(const WorkSet& set, const Side<kCut>& side,
                                    const BoxPlace& place, int32_t shift, int32_t range,
                                    int32_t rows) {
  if (side.cut && (set.first + shift < side.extent.begin || set.box_rows != rows)) return false;
  const int32_t periods = set.outer == 1 ? 1 : (range_end(range) + set.inner - 1) / set.inner;
  return place.period + periods <= set.rows_full;
}

// The row of element e of `set`, moved by `shift`, in the map of single rows: −1, where zeros are
// read, if the sequence does not have it.
LACE_HOST_DEVICE inline int32_t row_or_none(const WorkSet& set, const Side<true>& side,
                                            const int32_t* offsets, int32_t shift, int32_t e) {
  if (e >= set.inner * set.outer) return -1;
  const int32_t position = position_in(set, offsets, e) + shift;
  const bool inside = position >= side.extent.begin && position < side.extent.end;
  return inside ? position + side.extent.row : -1;
}

}  // namespace lace::sm90
