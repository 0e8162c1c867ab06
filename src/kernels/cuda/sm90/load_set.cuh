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
// How it moves from tile to tile of a run.
struct BoxStep {
  int32_t row, period;
  __device__ explicit BoxStep(const WorkRun& run) : row(run.step), period(0) {
    if (run.others.map >= kNaturalMaps) row = 0, period = run.step / run.others.stride;
  }
};

// Loads the first `count` elements of `set`, moved by `shift`, into kSlices slices of 64 columns;
// what the tile holds past them is not defined, but finite where the tensor is. place: of the moved
// set. Called by all lanes of a warp.
template <int kSlices, int kRows>
__device__ void load_set(const LoadTarget& target, const WorkSet& set, const BoxPlace& place,
                         const int32_t* offsets, int32_t shift, int32_t count, int lane) {
  constexpr uint32_t kSliceBytes = kRows * 128;
  bool one_box = set.map >= 0;
  if (set.map >= kNaturalMaps) {
    const int32_t all = set.inner * set.outer;
    const int32_t periods = count == all ? set.outer : (count + set.inner - 1) / set.inner;
    one_box = place.period + periods <= set.rows_full;
  }
  if (one_box) {
    if (lane == 0) {
      target.full->arrive_and_expect_tx(set.box_rows * 128 * kSlices);
#pragma unroll
      for (int s = 0; s < kSlices; ++s) {
        target.load(set.map, target.smem + s * kSliceBytes, s * 64, place.row, place.period);
      }
    }
    return;
  }
  if (lane == 0) target.full->arrive_and_expect_tx(count * 128 * kSlices);
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

}  // namespace lace::sm90
