#pragma once

#include "kernels/cuda/sm90/hopper.cuh"
#include "kernels/cuda/sm90/items.cuh"
#include "kernels/cuda/sm90/sets.h"
#include "kernels/cuda/sm90/tensor_maps.h"
#include "kernels/kernel.h"

namespace lace::sm90 {

// Where a tile goes: maps of the tensor, the barrier that counts its bytes, a tile in shared
// memory, and the head.
struct LoadTarget {
  const CUtensorMap* maps;
  const MapSteps& steps;
  Barrier* full;
  uint32_t smem;
  int32_t head, batch;

  // last: the last coordinate, `batch` where rows are those of the tensor, else of_sequence().
  __device__ void load(int32_t map, uint32_t address, int32_t column, int32_t row, int32_t period,
                       int32_t last) const {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(address),
        "l"(maps + map), "r"(cute::cast_smem_ptr_to_uint(full)), "r"(column), "r"(row), "r"(period),
        "r"(head), "r"(last)
        : "memory");
  }
  // end: the row behind the last one that the map shows (MapSteps).
  __device__ int32_t of_sequence(int32_t end) const {
    return batch * steps.batch + end * steps.row;
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

// What a load of a box asks of its set, for who holds it in registers.
struct SetBox {
  int32_t map, box_rows;
  __device__ SetBox(const WorkSet& set) : map(set.map), box_rows(set.box_rows) {}
};

// Issues one box into kSlices slices of 64 columns. Called by all lanes of a warp: each arrives at
// the barrier if kAll, else one. of: a WorkSet, or its SetBox.
template <int kSlices, int kRows, bool kAll, bool kCut, typename Set>
__device__ void load_box(const LoadTarget& target, const Set& of, const Side<kCut>& side,
                         const BoxPlace& place, int lane) {
  arrive_expecting<kAll>(*target.full, of.box_rows * 128 * kSlices, lane);
  if (lane == 0) {
    const int32_t last = kCut ? target.of_sequence(side.end) : target.batch;
#pragma unroll
    for (int s = 0; s < kSlices; ++s) {
      const bool none = kCut && s > 0 && s * 64 >= target.steps.columns;
      target.load(none ? kZeroMap : of.map, target.smem + s * kRows * 128, s * 64, place.row,
                  place.period, last);
    }
  }
}

// Loads the first `count` elements of `set`, moved by `shift`, stretch by stretch, each in boxes of
// the powers of two that it is made of. As load_box().
template <int kSlices, int kRows, bool kAll>
__device__ void load_stretches(const LoadTarget& target, const WorkSet& set, const int32_t* offsets,
                               int32_t shift, int32_t count, int lane) {
  arrive_expecting<kAll>(*target.full, count * 128 * kSlices, lane);
  __syncwarp();
  for (int32_t o = lane; o * set.inner < count; o += 32) {
    int32_t element = o * set.inner;
    int32_t position = set.first + shift + offset_of(set, offsets, o);
    int32_t left = min(set.inner, count - element);
    while (left > 0) {
      const int32_t map = max(1, __clz(left) - 24);
      const int32_t rows = 128 >> map;  // at most `left`
#pragma unroll
      for (int s = 0; s < kSlices; ++s) {
        target.load(map, target.smem + s * kRows * 128 + element * 128, s * 64, position, 0,
                    target.batch);
      }
      element += rows, position += rows, left -= rows;
    }
  }
}

// Loads the elements of `set`, moved by `shift`, that are in a sequence row by row, and zeros into
// all other rows of the tile in shared memory. As load_box().
template <int kSlices, int kRows, bool kAll>
__device__ void load_rows(const LoadTarget& target, const WorkSet& set, const Side<true>& side,
                          const int32_t* offsets, int32_t shift, int lane) {
  arrive_expecting<kAll>(*target.full, kRows * 128 * kSlices, lane);
  __syncwarp();
  for (int32_t e = lane; e < kRows; e += 32) {
    const int32_t row = row_or_none(set, side, offsets, shift, e);
#pragma unroll
    for (int s = 0; s < kSlices; ++s) {
      target.load(kRowMap, target.smem + s * kRows * 128 + e * 128, s * 64, row, 0, target.batch);
    }
  }
}

// Loads the elements `range` of `set`, moved by `shift`, into kSlices slices of 64 columns; what
// the tile holds beside them is not defined, but finite where the tensor is, and zeros where it
// would be of no sequence or of another. of: the set, or its SetBox; box: as is_box() says; place:
// of the moved set. Called by all lanes of a warp, as load_box().
template <int kSlices, int kRows, bool kAll = false, bool kCut, typename Set>
__device__ void load_set(const LoadTarget& target, const WorkSet& set, const Set& of,
                         const Side<kCut>& side, const BoxPlace& place, bool box,
                         const int32_t* offsets, int32_t shift, int32_t range, int lane) {
  if (box) {
    load_box<kSlices, kRows, kAll>(target, of, side, place, lane);
  } else if constexpr (kCut) {
    load_rows<kSlices, kRows, kAll>(target, set, side, offsets, shift, lane);
  } else {
    load_stretches<kSlices, kRows, kAll>(target, set, offsets, shift, range_end(range), lane);
  }
}

// The others of a warp's items.
template <bool kCut>
struct OthersWalk {
  const ItemQueue& queue;
  SideMemory& memory;  // of the warp's own

  __device__ Side<kCut> side() const { return side(memory); }
  // of: `memory`, or a copy of it.
  __device__ Side<kCut> side(const SideMemory& of) const {
    if constexpr (kCut) {
      return {of.extent, of.end, queue.other_len};
    } else {
      return Side<false>(queue.other_len);
    }
  }
  // All lanes call these: for each item, and for each run, whose tiles that there are `enter`
  // returns.
  __device__ void enter(const ItemSlot& item, int lane) const {
    if constexpr (kCut) {
      __syncwarp();
      if (lane == 0) memory.extent = item.others;
      __syncwarp();
    }
  }
  __device__ TileRange enter(const WorkRun& run, int lane) const {
    if constexpr (!kCut) return {0, run.tiles};
    __syncwarp();
    if (lane == 0) memory.end = map_end(run.others, memory.extent);
    __syncwarp();
    return tiles_between(run, queue.work.offsets, memory.extent.begin, memory.extent.end);
  }
};

// What an item keeps on chip.
template <int kSlices, int kRows, bool kCut>
__device__ void load_owners(const LoadTarget& target, const ItemQueue& queue, const ItemSlot& item,
                            int lane) {
  const WorkSet& set = item.tile.owners;
  const int32_t range = item.tile.owner_count;
  const auto load = [&](const Side<kCut>& side, int32_t shift) {
    const BoxPlace place(set, shift, side);
    load_set<kSlices, kRows>(target, set, set, side, place,
                             is_box(set, side, place, shift, range, kRows), queue.work.offsets,
                             shift, range, lane);
  };
  if constexpr (kCut) {
    const int32_t end = map_end(set, item.owners);
    load({item.owners, end, queue.owner_len}, -item.owners.row);  // the first of the set is a row
  } else {
    load(Side<false>(queue.owner_len), 0);
  }
}

}  // namespace lace::sm90
