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
  // With a mask of blocks: that of the head; the positions of the owners, from the first to the
  // last; and what makes rows of theirs of them.
  const bool* live_blocks;
  int32_t owner_begin, owner_last, owner_row;
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

template <typename Memory, bool kOwnersAreKeys>
class TileWalk {
 public:
  static constexpr int kOwners = Memory::kOwners, kChunk = Memory::kChunk;
  // blocks: of the launch's parameters, which it stays.
  __device__ TileWalk(Memory& memory, const DevicePlan& plan, const LiveBlocks& blocks)
      : memory_(memory), plan_(plan), blocks_(blocks) {}

  // Writes the owners' rows, and where others are. A barrier stands between this and what follows.
  __device__ void begin(const OwnerTile& tile, const Extent& owners, const Extent& others) {
    for (int e = static_cast<int>(threadIdx.x); e < kOwners; e += static_cast<int>(blockDim.x)) {
      memory_.owners[e] = row_of(plan_, tile.owners, tile.owners.first, e, owners);
    }
    if (threadIdx.x != 0) return;
    memory_.extent = others;
    if (blocks_.live == nullptr) return;
    const IndexSet& set = tile.owners;
    const int64_t offset = set.offsets >= 0 ? plan_.offsets[set.offsets + set.outer - 1]
                                            : (set.outer - 1) * set.outer_stride;
    const int64_t last = set.first + offset + set.inner - 1;
    memory_.owner_begin = max(static_cast<int32_t>(set.first), owners.begin);
    memory_.owner_last = static_cast<int32_t>(min(last, static_cast<int64_t>(owners.end) - 1));
    memory_.owner_row = owners.row;
  }

  // Writes a step before the first into the slot `before`, of the walk for a query head; a barrier
  // likewise.
  __device__ void restart(const OwnerTile& tile, int before, int head) {
    if (threadIdx.x != 0) return;
    memory_.steps[before] = {tile.run_begin, tile.run_end, 0, -kChunk};
    const int64_t of_head = static_cast<int64_t>(blocks_.blocks) * blocks_.blocks;
    memory_.live_blocks = blocks_.live + (blocks_.heads == 1 ? 0 : head) * of_head;
  }

  // Writes the chunk after slot `from` into slot `to`; its mask is there after wait_copies().
  __device__ void advance(int from, int to) {
    const int e = static_cast<int>(threadIdx.x);
    auto step = memory_.steps[from];
    int32_t row = -1;
    const Extent others = memory_.extent;
    const int32_t end = others.end + others.row;
    if (blocks_.live == nullptr && step.tile + 1 < step.tiles && step.count <= kChunk &&
        others.begin == 0 && memory_.others[from][0] + step.move < end) {
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
      do {
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
      } while (blocks_.live != nullptr && step.run < step.run_end && is_dead(*run, step, others));
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
    if (memory_.owners[row] < 0) return 0;
    return blocks_.live == nullptr ? bits : in_live_blocks(bits, slot, row);
  }

  // Which pairs of the kRows owners from `row` on and the kColumns others from `first` on are live;
  // by all lanes of a warp at once.
  template <int kRows, int kColumns>
  __device__ Live live_pairs(int slot, int row, int first, int lane) const {
    const bool all = blocks_.live == nullptr && memory_.steps[slot].mask < 0 &&
                     memory_.inside[slot][0] == ~0u &&
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
  // The blocks that an owner and one of the others are in, of places in the plan.
  __device__ int32_t owner_block(int32_t place) const {
    return (place + (kOwnersAreKeys ? 0 : blocks_.first_query)) / blocks_.size;
  }
  __device__ int32_t other_block(int32_t place) const {
    return (place + (kOwnersAreKeys ? blocks_.first_query : 0)) / blocks_.size;
  }

  // Whether the pairs of the owners' block and the others' count.
  __device__ bool is_live(int32_t owner_block, int32_t other_block) const {
    if (owner_block >= blocks_.blocks || other_block >= blocks_.blocks) return false;
    const int64_t query = kOwnersAreKeys ? other_block : owner_block;
    return __ldg(reinterpret_cast<const unsigned char*>(memory_.live_blocks) +
                 query * blocks_.blocks + (kOwnersAreKeys ? owner_block : other_block)) != 0;
  }

  // Whether a chunk has no live block, as far as few lookups tell.
  __device__ bool is_dead(const Run& run, const typename Memory::Step& step,
                          const Extent& others) const {
    constexpr int32_t kMost = 4;  // blocks on each side
    if (run.others.outer != 1) return false;
    const int64_t first = run.others.first + step.tile * run.step + step.begin;
    const int64_t end =
        min(first + min(kChunk, run.others.inner - step.begin), static_cast<int64_t>(others.end));
    const int32_t begin = static_cast<int32_t>(max(first, static_cast<int64_t>(others.begin)));
    if (begin >= end || memory_.owner_begin > memory_.owner_last) return true;
    const int32_t owner = owner_block(memory_.owner_begin), other = other_block(begin);
    const int32_t owners = owner_block(memory_.owner_last) - owner + 1;
    const int32_t count = other_block(static_cast<int32_t>(end - 1)) - other + 1;
    if (owners > kMost || count > kMost) return false;
#pragma unroll 1
    for (int32_t i = 0; i < owners * count; i++) {
      if (is_live(owner + i / count, other + i % count)) return false;
    }
    return true;
  }

  // Of a chunk's others those in live blocks with owner `row`; bits: those that there are, whose
  // positions ascend.
  __device__ uint64_t in_live_blocks(uint64_t bits, int slot, int row) const {
    const int32_t of_owner = owner_block(memory_.owners[row] - memory_.owner_row);
    uint64_t kept = 0;
#pragma unroll 1
    while (bits != 0) {
      const int first = __ffsll(static_cast<long long>(bits)) - 1;
      const int32_t row_of_first = memory_.others[slot][first];
      const int32_t place = row_of_first - memory_.extent.row;
      const int32_t block = other_block(place);
      // Those of the same block: most often all.
      const int32_t in_block = place + (kOwnersAreKeys ? blocks_.first_query : 0);
      const int32_t end = row_of_first + ((block + 1) * blocks_.size - in_block);
      uint64_t same = bits;
      while (memory_.others[slot][63 - __clzll(static_cast<long long>(same))] >= end) {
        same &= ~(uint64_t{1} << (63 - __clzll(static_cast<long long>(same))));
      }
      if (is_live(of_owner, block)) kept |= same;
      bits &= ~same;
    }
    return kept;
  }

  // The mask's bits of owner `e` for the others around step.begin; null if none is live.
  __device__ const uint64_t* mask_word(const typename Memory::Step& step, int e) const {
    const int4 mask = __ldg(reinterpret_cast<const int4*>(plan_.masks + step.mask));
    const int32_t owners = mask.x, words_per_owner = mask.z, word_begin = mask.w;
    if (e >= owners || step.begin / 64 >= words_per_owner) return nullptr;
    return plan_.words + word_begin + e * words_per_owner + step.begin / 64;
  }

  Memory& memory_;
  const DevicePlan& plan_;
  const LiveBlocks& blocks_;
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
