#pragma once

#include <cstdint>

#include "kernels/cuda/device_plan.h"
#include "kernels/cuda/portable/mma.cuh"

namespace lace::cuda::portable {

// Walks a tile of owners' runs in chunks of at most kChunk others, whose positions it puts into
// shared memory.

constexpr int kWalkSlots = 3;

template <int kOwners, int kChunk>
struct WalkMemory {
  struct Step {
    int32_t run = 0, run_end = 0, tile = 0, begin = 0;
    int32_t mask = -1;  // −1: every pair is live
    // Of the run.
    int32_t tiles = 0, move = 0, count = 0, mask_begin = 0, mask_cycle = 0;
  };
  int32_t owners[kOwners];             // positions, −1 for none
  int32_t others[kWalkSlots][kChunk];  // positions of a chunk, −1 for none, which come last
  Step steps[kWalkSlots];
};

// Position of element e of the set moved to `first`, or −1 if there is none.
inline __device__ int32_t position_of(const DevicePlan& plan, const IndexSet& set, int64_t first,
                                      int32_t e, int64_t length) {
  if (e >= set.inner * set.outer) return -1;
  int32_t o = 0, i = e;
  if (set.outer != 1) {
    o = set.inner == 1 ? e : e / set.inner;
    i = e - o * set.inner;
  }
  const int64_t offset = set.offsets >= 0 ? plan.offsets[set.offsets + o] : o * set.outer_stride;
  const int64_t position = first + offset + i;
  return position < length ? static_cast<int32_t>(position) : -1;
}

template <int kOwners, int kChunk>
class TileWalk {
 public:
  using Memory = WalkMemory<kOwners, kChunk>;
  __device__ TileWalk(Memory& memory, const DevicePlan& plan, int64_t other_len)
      : memory_(memory), plan_(plan), other_len_(other_len) {}

  // Writes the owners' positions and a step before the first into the slot `before`.
  __device__ void begin(const OwnerTile& tile, int64_t owner_len, int before) {
    for (int e = static_cast<int>(threadIdx.x); e < kOwners; e += static_cast<int>(blockDim.x)) {
      memory_.owners[e] = position_of(plan_, tile.owners, tile.owners.first, e, owner_len);
    }
    if (threadIdx.x == 0) memory_.steps[before] = {tile.run_begin, tile.run_end, 0, -kChunk};
  }

  // Writes the chunk after slot `from` into slot `to`.
  __device__ void advance(int from, int to) {
    const int e = static_cast<int>(threadIdx.x);
    if (e >= kChunk) return;
    auto step = memory_.steps[from];
    int32_t position = -1;
    if (step.tile + 1 < step.tiles && step.count <= kChunk) {
      // The next tile of the run in one chunk: the same elements, moved.
      ++step.tile;
      const int32_t before = memory_.others[from][e];
      if (before >= 0 && before + step.move < other_len_) position = before + step.move;
      if (step.mask_cycle > 1) {
        step.mask = plan_.mask_ids[step.mask_begin + step.tile % step.mask_cycle];
      }
    } else if (step.run < step.run_end) {
      const Run* run = plan_.runs + step.run;
      step.begin += kChunk;
      if (step.begin >= run->others.inner * run->others.outer) {
        step.begin = 0;
        if (++step.tile >= run->tiles) {
          step.tile = 0;
          step.run++;
          run++;
        }
      }
      if (step.run < step.run_end) {
        const int64_t first = run->others.first + step.tile * run->step;
        position = position_of(plan_, run->others, first, step.begin + e, other_len_);
        step.tiles = run->tiles;
        step.move = static_cast<int32_t>(run->step);
        step.count = run->others.inner * run->others.outer;
        step.mask_begin = run->mask_begin;
        step.mask_cycle = run->mask_cycle;
        step.mask = run->mask_cycle == 0
                        ? -1
                        : plan_.mask_ids[run->mask_begin + step.tile % run->mask_cycle];
      }
    }
    memory_.others[to][e] = position;
    if (e == 0) memory_.steps[to] = step;
  }

  __device__ bool valid(int slot) const {
    return memory_.steps[slot].run < memory_.steps[slot].run_end;
  }
  // Whether some pair of the chunk may be dead.
  __device__ bool partial(int slot) const {
    return memory_.steps[slot].mask >= 0 || memory_.others[slot][kChunk - 1] < 0;
  }

  // dead(j, t) for each dead pair of 8 · kColumnTiles others and the owners `row`, `row + 8` of
  // this thread, in the order of an accumulator (j: which 8 columns, t: which of the four).
  template <int kColumnTiles, typename Dead>
  __device__ void for_dead(int slot, int row, int lane, const Dead& dead) const {
    const int column = 2 * (lane & 3);
    const uint64_t live[2] = {live_others(slot, row) >> column,
                              live_others(slot, row + 8) >> column};
    const bool cut = memory_.others[slot][kChunk - 1] < 0;
#pragma unroll
    for (int j = 0; j < kColumnTiles; j++) {
#pragma unroll
      for (int side = 0; side < 2; side++) {
        const bool none = cut && memory_.others[slot][8 * j + column + side] < 0;
        if (none || (live[0] >> (8 * j + side) & 1) == 0) dead(j, side);
        if (none || (live[1] >> (8 * j + side) & 1) == 0) dead(j, 2 + side);
      }
    }
  }

 private:
  // Bits of the chunk's others that the mask lets owner `row` see.
  __device__ uint64_t live_others(int slot, int row) const {
    const auto& step = memory_.steps[slot];
    if (step.mask < 0) return ~uint64_t{0};
    const DeviceMask mask = plan_.masks[step.mask];
    if (row >= mask.owners || step.begin >= mask.others) return 0;
    return plan_.words[mask.word_begin + row * mask.words_per_owner + step.begin / 64] >>
           (step.begin % 64);
  }

  Memory& memory_;
  const DevicePlan& plan_;
  int64_t other_len_;
};

// Rows [0, kRows) of a head, at `positions`, into a tile; elements at or past `dim` and rows
// without a position become zeros. Asynchronous where `aligned` (base and strides are multiples of
// 16 bytes); dim is a multiple of 8.
template <int kDim, int kRows, int kThreads, typename T>
__device__ void load_rows(SmemTile<kDim> tile, const int32_t* positions, const T* head,
                          int64_t row_stride, int dim, bool aligned) {
  constexpr int kGranules = kDim / 8;
  const int thread = static_cast<int>(threadIdx.x);
  const int index = thread % kGranules;
  const bool inside = index * 8 < dim;
#pragma unroll
  for (int row = thread / kGranules; row < kRows; row += kThreads / kGranules) {
    const int32_t position = positions[row];
    const bool valid = inside && position >= 0;
    const T* from = valid ? head + position * row_stride + index * 8 : head;
    const uint32_t to = tile.granule(row, index);
    if (aligned) {
      copy_async(to, from, valid);
    } else {
      uint32_t words[4] = {0, 0, 0, 0};
      if (valid) {
        const auto* bits = reinterpret_cast<const uint16_t*>(from);
#pragma unroll
        for (int w = 0; w < 4; w++) {
          words[w] = bits[2 * w] | static_cast<uint32_t>(bits[2 * w + 1]) << 16;
        }
      }
      asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(words[0]), "r"(words[1]),
                   "r"(words[2]), "r"(words[3])
                   : "memory");
    }
  }
}

// Two neighbouring elements.
template <typename T>
__device__ void store_pair(T* to, float low, float high, bool aligned) {
  if (aligned) {
    *reinterpret_cast<uint32_t*>(to) = pack<T>(low, high);
  } else {
    to[0] = from_float<T>(low);
    to[1] = from_float<T>(high);
  }
}

// The tile of owners of this block, the `index`-th of the launch's pass of `head`, or null if it
// has none.
template <typename Launch>
__device__ const OwnerTile* tile_of_block(const Launch& launch, int head, int index) {
  const DevicePlan& plan = launch.plan;
  int32_t begin = launch.tile_begin, end = launch.tile_end;
  if (begin < 0) {
    const HeadGroup group = plan.groups[plan.head_group[head]];
    if (group.pass_begin + launch.pass >= group.pass_end) return nullptr;
    const Pass& which = plan.passes[group.pass_begin + launch.pass];
    begin = which.tile_begin, end = which.tile_end;
  }
  return index < end - begin ? plan.tiles + begin + index : nullptr;
}

}  // namespace lace::cuda::portable
