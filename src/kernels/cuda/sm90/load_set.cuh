#pragma once

#include "kernels/cuda/sm90/hopper.cuh"
#include "kernels/cuda/sm90/work.h"

namespace lace::sm90 {

// How many elements of `set`, moved by `shift`, lie before `end`: they are the first ones.
__device__ inline int32_t count_before(const WorkSet& set, const int32_t* offsets, int32_t shift,
                                       int32_t end) {
  const int32_t last = set.offsets >= 0 ? __ldg(offsets + set.offsets + set.outer - 1)
                                        : (set.outer - 1) * set.stride;
  const int32_t room = end - set.first - shift;  // for offset + i
  if (last + set.inner <= room) return set.inner * set.outer;
  int32_t count = 0;
  for (int32_t o = 0; o < set.outer; ++o) {
    const int32_t offset = set.offsets >= 0 ? __ldg(offsets + set.offsets + o) : o * set.stride;
    if (offset >= room) break;
    count += min(set.inner, room - offset);
  }
  return count;
}

// The position of element e of `set`.
__device__ inline int32_t position_in(const WorkSet& set, const int32_t* offsets, int32_t e) {
  if (set.outer == 1) return set.first + e;
  const int32_t o = set.inner == 1 ? e : e / set.inner;
  const int32_t offset = set.offsets >= 0 ? __ldg(offsets + set.offsets + o) : o * set.stride;
  return set.first + offset + (e - o * set.inner);
}

// Where a tile goes: maps of the tensor, the barrier that counts its bytes, a tile in shared
// memory, and the head.
struct LoadTarget {
  const CUtensorMap* maps;
  Barrier* full;
  uint32_t smem;
  int32_t head, batch;

  __device__ void load(int32_t map, uint32_t address, int32_t column, int32_t row,
                       int32_t period) const {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(address),
        "l"(maps + map), "r"(cute::cast_smem_ptr_to_uint(full)), "r"(column), "r"(row), "r"(period),
        "r"(head), "r"(batch)
        : "memory");
  }
};

// Where the box of a tile begins, if it is one: a row within the period, and the period.
struct BoxPlace {
  int32_t row, period;
  __device__ explicit BoxPlace(const WorkSet& set) : row(set.first), period(0) {
    if (set.map >= kNaturalMaps) {
      period = set.first / set.stride;
      row = set.first - period * set.stride;
    }
  }
};

// The tiles of a run in turn.
struct TileWalk {
  BoxPlace place;
  BoxPlace step;      // from tile to tile
  int32_t edge;       // what follows the tile's last element
  int32_t shift = 0;  // from the first tile
  __device__ explicit TileWalk(const WorkRun& run)
      : place(run.others),
        step(run.others),
        edge(run.others.first + (run.others.outer - 1) * run.others.stride + run.others.inner) {
    const bool periods = run.others.map >= kNaturalMaps;
    step.period = periods ? run.step / run.others.stride : 0;
    step.row = periods ? 0 : run.step;
  }
  // Whether it is one box with all its elements, in a sequence of `length`.
  __device__ bool is_whole(const WorkSet& set, int32_t length) const {
    return edge <= length && place.period + set.outer <= set.rows_full;
  }
  // How many elements of the tile lie before `length`; whole: as is_whole() says.
  __device__ int32_t count(const WorkSet& set, const int32_t* offsets, bool whole,
                           int32_t length) const {
    return whole ? set.inner * set.outer : count_before(set, offsets, shift, length);
  }
  __device__ void next(int32_t by) {
    place.row += step.row, place.period += step.period, edge += by, shift += by;
  }
};

// Lane 0 of a warp tells `full` of `bytes` to come and arrives; all others arrive too if kAll.
template <bool kAll>
__device__ void arrive_expecting(Barrier& full, uint32_t bytes, int lane) {
  if (lane == 0) {
    full.arrive_and_expect_tx(bytes);
  } else if (kAll) {
    full.arrive();
  }
}

// Issues one box into kSlices slices of 64 columns. Called by all lanes of a warp: each arrives at
// the barrier if kAll, else one.
template <int kSlices, int kRows, bool kAll>
__device__ void load_box(const LoadTarget& target, const WorkSet& set, const BoxPlace& place,
                         int lane) {
  arrive_expecting<kAll>(*target.full, set.box_rows * 128 * kSlices, lane);
  if (lane == 0) {
#pragma unroll
    for (int s = 0; s < kSlices; ++s) {
      target.load(set.map, target.smem + s * kRows * 128, s * 64, place.row, place.period);
    }
  }
}

// Loads the first `count` elements of `set`, moved by `shift`, into kSlices slices of 64 columns;
// what the tile holds past them is not defined, but finite where the tensor is. place: of the moved
// set. Called by all lanes of a warp, as load_box().
template <int kSlices, int kRows, bool kAll = false>
__device__ void load_set(const LoadTarget& target, const WorkSet& set, const BoxPlace& place,
                         const int32_t* offsets, int32_t shift, int32_t count, int lane) {
  constexpr uint32_t kSliceBytes = kRows * 128;
  const int32_t periods = set.outer == 1 ? 1 : (count + set.inner - 1) / set.inner;
  if (place.period + periods <= set.rows_full) {
    return load_box<kSlices, kRows, kAll>(target, set, place, lane);
  }
  arrive_expecting<kAll>(*target.full, count * 128 * kSlices, lane);
  __syncwarp();
  // Stretch by stretch, each in boxes of the powers of two that it is made of.
  for (int32_t o = lane; o * set.inner < count; o += 32) {
    const int32_t offset = set.offsets >= 0 ? __ldg(offsets + set.offsets + o) : o * set.stride;
    int32_t element = o * set.inner;
    int32_t position = set.first + shift + offset;
    int32_t left = min(set.inner, count - element);
    while (left > 0) {
      const int32_t map = max(1, __clz(left) - 24);
      const int32_t rows = 128 >> map;  // at most `left`
#pragma unroll
      for (int s = 0; s < kSlices; ++s) {
        target.load(map, target.smem + s * kSliceBytes + element * 128, s * 64, position, 0);
      }
      element += rows, position += rows, left -= rows;
    }
  }
}

// The tile of `run` that `walk` is at, of which `count` elements count.
template <int kSlices, int kRows, bool kAll = false>
__device__ void load_tile(const LoadTarget& target, const WorkRun& run, const TileWalk& walk,
                          bool whole, const int32_t* offsets, int32_t count, int lane) {
  if (whole) {
    load_box<kSlices, kRows, kAll>(target, run.others, walk.place, lane);
  } else {
    load_set<kSlices, kRows, kAll>(target, run.others, walk.place, offsets, walk.shift, count,
                                   lane);
  }
}

}  // namespace lace::sm90
