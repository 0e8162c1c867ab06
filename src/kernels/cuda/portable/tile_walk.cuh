#pragma once

#include <cstdint>

#include "kernels/cuda/device_plan.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/portable/launch.h"
#include "kernels/cuda/portable/mma.cuh"

namespace lace::cuda::portable {

// Walks a tile of owners' runs in chunks of at most kChunk others, whose rows and masks it puts
// into shared memory. Rows are those of positions inside an extent; positions ascend in a tile, so
// that those without a row come first or last.

// kKeepsMasks: the bits of a chunk's mask are loaded ahead into shared memory, 8 bytes an owner;
// else they are read when they are needed.
template <int kOwnersValue, int kChunkValue, bool kKeepsMasks = true, int kWalkSlots = 3>
struct WalkMemory {
  static constexpr int kOwners = kOwnersValue, kChunk = kChunkValue;
  static constexpr bool kMasks = kKeepsMasks;
  struct alignas(16) Step {
    int32_t run = 0, run_end = 0, tile = 0, begin = 0;
    int32_t mask = -1;  // −1: every pair is live
    // Of the run.
    int32_t tiles = 0, move = 0, count = 0, mask_begin = 0, mask_cycle = 0;
  };
  uint64_t words[kMasks ? kWalkSlots : 1][kMasks ? kOwners : 1];  // from bit 64 ⌊begin / 64⌋ on
  int32_t owners[kOwners];                                        // rows, −1 for none
  int32_t others[kWalkSlots][kChunk];                             // rows of a chunk, −1 for none
  uint32_t inside[kWalkSlots][kChunk / 32];                       // bits: there is a row
  Step steps[kWalkSlots];
  Extent extent;  // of the others
};

// Row of element e of the set moved to `first`, or −1 if there is none.
inline __device__ int32_t row_of(const DevicePlan& plan, const IndexSet& set, int64_t first,
                                 int32_t e, const Extent& extent) {
  if (e >= set.inner * set.outer) return -1;
  int32_t o = 0, i = e;
  if (set.outer != 1) {
    o = set.inner == 1 ? e : e / set.inner;
    i = e - o * set.inner;
  }
  const int64_t offset = set.offsets >= 0 ? plan.offsets[set.offsets + o] : o * set.outer_stride;
  const int64_t position = first + offset + i;
  const bool inside = position >= extent.begin && position < extent.end;
  return inside ? static_cast<int32_t>(position) + extent.row : -1;
}

// Which pairs of some owners and others are live.
enum class Live { kNone, kSome, kAll };

template <typename Memory>
class TileWalk {
 public:
  static constexpr int kOwners = Memory::kOwners, kChunk = Memory::kChunk;
  __device__ TileWalk(Memory& memory, const DevicePlan& plan) : memory_(memory), plan_(plan) {}

  // Writes the owners' rows, and where others are. A barrier stands between this and what follows.
  __device__ void begin(const OwnerTile& tile, const Extent& owners, const Extent& others) {
    for (int e = static_cast<int>(threadIdx.x); e < kOwners; e += static_cast<int>(blockDim.x)) {
      memory_.owners[e] = row_of(plan_, tile.owners, tile.owners.first, e, owners);
    }
    if (threadIdx.x == 0) memory_.extent = others;
  }

  // Writes a step before the first into the slot `before`; a barrier likewise.
  __device__ void restart(const OwnerTile& tile, int before) {
    if (threadIdx.x == 0) memory_.steps[before] = {tile.run_begin, tile.run_end, 0, -kChunk};
  }

  // Writes the chunk after slot `from` into slot `to`; its mask is there after wait_copies().
  __device__ void advance(int from, int to) {
    const int e = static_cast<int>(threadIdx.x);
    auto step = memory_.steps[from];
    int32_t row = -1;
    const Extent others = memory_.extent;
    const int32_t end = others.end + others.row;
    if (step.tile + 1 < step.tiles && step.count <= kChunk && others.begin == 0 &&
        memory_.others[from][0] + step.move < end) {
      // The next tile of the run in one chunk: the same elements, moved.
      ++step.tile;
      if (e < kChunk) {
        const int32_t before = memory_.others[from][e];
        if (before >= 0 && before + step.move < end) row = before + step.move;
      }
      if (step.mask_cycle > 1) {
        step.mask = __ldg(plan_.mask_ids + step.mask_begin + step.tile % step.mask_cycle);
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
      // From a tile behind the extent on, all of the run are.
      while (step.run < step.run_end && run->others.first + step.tile * run->step >= others.end) {
        step.tile = step.begin = 0;
        step.run++;
        run++;
      }
      if (step.run < step.run_end) {
        const int64_t first = run->others.first + step.tile * run->step;
        if (e < kChunk) row = row_of(plan_, run->others, first, step.begin + e, others);
        step.tiles = run->tiles;
        step.move = static_cast<int32_t>(run->step);
        step.count = run->others.inner * run->others.outer;
        step.mask_begin = run->mask_begin;
        step.mask_cycle = run->mask_cycle;
        step.mask = run->mask_cycle == 0
                        ? -1
                        : __ldg(plan_.mask_ids + run->mask_begin + step.tile % run->mask_cycle);
      }
    }
    if (e < kChunk) {
      memory_.others[to][e] = row;
      const uint32_t inside = __ballot_sync(~0u, row >= 0);
      if (e % 32 == 0) memory_.inside[to][e / 32] = inside;
    }
    if (e == 0) memory_.steps[to] = step;
    if (Memory::kMasks && step.mask >= 0 && step.run < step.run_end && e < kOwners) {
      const uint64_t* word = mask_word(step, e);
      copy_async_8(smem_address(&memory_.words[to][e]), word != nullptr ? word : plan_.words,
                   word != nullptr);
    }
  }

  __device__ bool valid(int slot) const {
    return memory_.steps[slot].run < memory_.steps[slot].run_end;
  }

  // Bit f: owner `row` and the chunk's other f are a live pair.
  __device__ uint64_t live_others(int slot, int row) const {
    uint64_t bits = memory_.inside[slot][0];
    if constexpr (kChunk > 32) bits |= static_cast<uint64_t>(memory_.inside[slot][1]) << 32;
    const auto& step = memory_.steps[slot];
    if (step.mask >= 0) {
      uint64_t word = 0;
      if constexpr (Memory::kMasks) {
        word = memory_.words[slot][row];
      } else if (const uint64_t* from = mask_word(step, row); from != nullptr) {
        word = __ldg(from);
      }
      bits &= word >> (step.begin % 64);
    }
    return memory_.owners[row] < 0 ? 0 : bits;
  }

  // Which pairs of the kRows owners from `row` on and the kColumns others from `first` on are live;
  // by all lanes of a warp at once.
  template <int kRows, int kColumns>
  __device__ Live live_pairs(int slot, int row, int first, int lane) const {
    const bool all = memory_.steps[slot].mask < 0 && memory_.inside[slot][0] == ~0u &&
                     memory_.inside[slot][kChunk / 32 - 1] == ~0u && memory_.owners[0] >= 0 &&
                     memory_.owners[kOwners - 1] >= 0;
    if (all) return Live::kAll;
    constexpr uint64_t kOnes = ~uint64_t{0} >> (64 - kColumns);
    const uint64_t bits = live_others(slot, row + lane % kRows) >> first & kOnes;
    if (!__any_sync(~0u, bits != 0)) return Live::kNone;
    return __all_sync(~0u, bits == kOnes) ? Live::kAll : Live::kSome;
  }

  // dead(j, t) for each dead pair of the owners `row`, `row + 8` of this thread and the
  // 8 · kColumnTiles others from `first` on, in the order of an accumulator (j: which 8 columns, t:
  // which of the four).
  template <int kColumnTiles, typename Dead>
  __device__ void for_dead(int slot, int row, int first, int lane, const Dead& dead) const {
    const int shift = first + 2 * (lane & 3);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const uint64_t live = live_others(slot, row + 8 * half) >> shift;
      const uint32_t words[2] = {static_cast<uint32_t>(live), static_cast<uint32_t>(live >> 32)};
#pragma unroll
      for (int j = 0; j < kColumnTiles; j++) {
#pragma unroll
        for (int side = 0; side < 2; side++) {
          const int bit = 8 * j + side;
          if ((words[bit / 32] & 1u << bit % 32) == 0) dead(j, 2 * half + side);
        }
      }
    }
  }

 private:
  // The mask's bits of owner `e` for the others around step.begin; null if none is live.
  __device__ const uint64_t* mask_word(const typename Memory::Step& step, int e) const {
    const int4 mask = __ldg(reinterpret_cast<const int4*>(plan_.masks + step.mask));
    const int32_t owners = mask.x, words_per_owner = mask.z, word_begin = mask.w;
    if (e >= owners || step.begin / 64 >= words_per_owner) return nullptr;
    return plan_.words + word_begin + e * words_per_owner + step.begin / 64;
  }

  Memory& memory_;
  const DevicePlan& plan_;
};

// One instruction, where nvcc would multiply 64 bits.
inline __device__ int64_t multiply_wide(int32_t a, int32_t b) {
  int64_t product;
  asm("mul.wide.s32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
  return product;
}

// The granules of a tile that one thread copies: of the same column, kStep rows apart.
template <int kDim, int kThreads>
struct GranulesOfThread {
  static constexpr int kStep = kThreads / (kDim / 8);
  int index = static_cast<int>(threadIdx.x) % (kDim / 8);
  int first = static_cast<int>(threadIdx.x) / (kDim / 8);
};

// The rows of a head that `positions` names into a tile; elements at or past `dim`, a multiple of
// 8, and rows of −1 become zeros. Asynchronous where rows.aligned.
template <int kDim, int kRows, int kThreads, typename T>
__device__ void load_rows(SmemTile<kDim> tile, const int32_t* positions, const T* head,
                          const StridedRows& rows, int dim) {
  using Granules = GranulesOfThread<kDim, kThreads>;
  const Granules mine;
  const T* column = head + 8 * mine.index;
  const bool inside = 8 * mine.index < dim;
  if (rows.aligned) {
    const auto stride = static_cast<int32_t>(2 * rows.row_stride);
#pragma unroll
    for (int i = 0; i < kRows / Granules::kStep; i++) {
      const int row = mine.first + i * Granules::kStep;
      const int32_t position = positions[row];
      const bool valid = inside && position >= 0;
      const int64_t offset = multiply_wide(max(position, 0), stride);
      copy_async(tile.granule(row, mine.index), reinterpret_cast<const char*>(column) + offset,
                 valid);
    }
  } else {
#pragma unroll 1
    for (int row = mine.first; row < kRows; row += Granules::kStep) {
      const int32_t position = positions[row];
      uint4 words = {};
      if (inside && position >= 0)
        words = load_elements(column + position * rows.row_stride, false);
      tile.store(row, mine.index, words);
    }
  }
}

// The reverse of load_rows: what lies outside is left out.
template <int kDim, int kRows, int kThreads, typename T>
__device__ void store_rows(SmemTile<kDim> tile, const int32_t* positions, T* head,
                           const StridedRows& rows, int dim) {
  using Granules = GranulesOfThread<kDim, kThreads>;
  const Granules mine;
  if (8 * mine.index >= dim) return;
#pragma unroll 4
  for (int row = mine.first; row < kRows; row += Granules::kStep) {
    const int32_t position = positions[row];
    if (position < 0) continue;
    const uint4 words = tile.load(row, mine.index);
    T* to = head + position * rows.row_stride + 8 * mine.index;
    store_elements(to, words, rows.aligned);
  }
}

}  // namespace lace::cuda::portable
