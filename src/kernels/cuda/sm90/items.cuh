#pragma once

#include "kernels/cuda/passes.cuh"
#include "kernels/cuda/sm90/hopper.cuh"
#include "kernels/cuda/sm90/sets.h"
#include "kernels/cuda/sm90/uploaded_work.h"
#include "kernels/cuda/softcap.h"

// What the persistent kernels share: which item comes when, and how passes wait for each other.

namespace lace::sm90 {

using cuda::row_in;

// A position in a ring of stages; the phase of a stage's barriers changes with every round.
template <int kStages>
class Ring {
 public:
  __device__ int stage() const { return kCounts ? at_ % kStages : at_; }
  __device__ uint32_t phase() const { return kCounts ? at_ / kStages % 2 : phase_; }
  __device__ void next() {
    if (++at_ == kStages && !kCounts) at_ = 0, phase_ ^= 1;
  }

 private:
  static constexpr bool kCounts = (kStages & (kStages - 1)) == 0;  // one register, not two
  uint32_t at_ = 0, phase_ = 0;
};

// The same in one register, for warps that have few.
template <int kStages>
class SmallRing {
 public:
  __device__ int stage() const { return at_ < kStages ? at_ : at_ - kStages; }
  __device__ uint32_t phase() const { return at_ >= kStages; }
  __device__ void next() {
    if (++at_ == 2 * kStages) at_ = 0;
  }

 private:
  int at_ = 0;
};

// Follows `count` stages that another warp fills. A barrier tells a phase only from the one before
// it: so each is waited for, and takes arrivals of who follows too. Called by a whole warp.
template <typename AnyRing, int kStages>
__device__ void follow(AnyRing& ring, Barrier (&empty)[kStages], int32_t count) {
#pragma unroll 1
  for (int32_t i = 0; i < count; ++i) {
    empty[ring.stage()].wait(ring.phase() ^ 1);
    empty[ring.stage()].arrive();
    ring.next();
  }
}

// Item `item`: a tile of owners, and for which head.
struct Item {
  const WorkTile* tile = nullptr;
  int32_t batch = 0, head = 0;
};

__device__ inline Item find_item(const ItemQueue& queue, int32_t item) {
  const int2 found = __ldg(reinterpret_cast<const int2*>(queue.order + item));  // a WorkItem
  return {&queue.work.tiles[found.x], found.y / queue.heads, found.y % queue.heads};
}

// With sequences `tile` is cut: its owners that there are, the first one's row and not its
// position, the tiles of others that meet the sequence, and what its passes wait for.
struct ItemSlot {
  WorkTile tile;
  int32_t batch, head;    // of tensors in memory
  int32_t counter;        // of ItemQueue::done
  int32_t live;           // 0: no more items
  Extent owners, others;  // with sequences
};

// The items of one block on their way from the warp that finds them to those that work on them.
struct ItemRing {
  static constexpr int kStages = 4;
  ItemSlot slots[kStages];
  Barrier full[kStages];
  Barrier issued[kStages];  // all loads of the item are under way
  Barrier stored[kStages];  // its results are stored
  Barrier empty[kStages];

  // Called by one thread. readers, consumers: warps that arrive at `empty` and at `stored`.
  __device__ void init(int readers, int consumers) {
    for (int i = 0; i < kStages; ++i) {
      full[i].init(32);
      issued[i].init(1);
      stored[i].init(32 * consumers);
      empty[i].init(32 * readers);
    }
  }
};
using ItemPosition = Ring<ItemRing::kStages>;

// Tells the finder, when the loading warp has issued all loads of an item. All lanes call it.
__device__ inline void tell_issued(ItemRing& ring, const ItemPosition& at, int lane) {
  __syncwarp();
  if (lane == 0) {
    ring.issued[at.stage()].arrive();
  }
  ring.empty[at.stage()].arrive();
}

// Tiles of others of an item, with sequences, up to which a block takes the next one at once.
constexpr int32_t kTakesAheadUpTo = 6;

// Puts item `item` into `slot`. All lanes of a warp call it.
__device__ inline void put_item(const ItemQueue& queue, int32_t item, ItemSlot& slot, int lane) {
  const Item found = find_item(queue, item);
  reinterpret_cast<uint32_t*>(&slot.tile)[lane] =
      __ldg(reinterpret_cast<const uint32_t*>(found.tile) + lane);
  if (lane == 0) {
    slot.batch = found.batch, slot.head = found.head;
    slot.counter = found.batch * queue.heads + found.head;
  }
}

// The same of an item of a sequence. Returns its tiles of others.
__device__ inline int32_t put_sequence_item(const ItemQueue& queue, int32_t item, ItemSlot& slot,
                                            int lane) {
  const SequenceQueue& all = queue.of_sequences;
  const int4 x = __ldg(reinterpret_cast<const int4*>(all.items + item));
  const SequenceItem found{x.x, x.y, x.z, x.w};
  const int32_t s = found.head / queue.heads;
  reinterpret_cast<uint32_t*>(&slot.tile)[lane] =
      __ldg(reinterpret_cast<const uint32_t*>(&queue.work.tiles[found.tile]) + lane);
  __syncwarp();
  if (lane == 0) {
    const Sequence sequence = all.sequences[s];
    slot.batch = all.packed ? 0 : s, slot.head = found.head - s * queue.heads;
    slot.counter = found.head;
    slot.owners = all.owners.of(sequence), slot.others = all.others.of(sequence);
    WorkTile& tile = slot.tile;
    tile.owners.first += slot.owners.row;
    tile.owner_count = found.owners;
    tile.tiles = found.tiles;
    if (found.tiles == 0) tile.run_end = tile.run_begin;
    if (tile.wait > 0) tile.wait = all.waits[s * all.passes + tile.pass_index];
  }
  return found.tiles;
}

// Takes the items of this block, one after the other, and after the last one says so: the work of a
// warp, all of whose lanes call it. load_owners(slot) loads what the item keeps on chip.
template <bool kCut, typename LoadOwners>
__device__ void find_items(const ItemQueue& queue, ItemRing& ring, int lane,
                           const LoadOwners& load_owners) {
  ItemPosition at, issued;
  const int32_t items = kCut ? *queue.of_sequences.item_count : queue.items;
  bool takes_ahead = queue.takes_ahead;
  for (bool first = true;; first = false) {
    ring.empty[at.stage()].wait(at.phase() ^ 1);
    if (!first) {
      if (!takes_ahead) ring.issued[issued.stage()].wait(issued.phase());
      issued.next();
    }
    int32_t item = 0;
    if (lane == 0) item = atomicAdd(queue.next_item, 1);
    item = __shfl_sync(~0u, item, 0);
    ItemSlot& slot = ring.slots[at.stage()];
    const bool live = item < items;
    if (live) {
      if constexpr (kCut) {
        takes_ahead = put_sequence_item(queue, item, slot, lane) <= kTakesAheadUpTo;
      } else {
        put_item(queue, item, slot, lane);
      }
    }
    if (lane == 0) slot.live = live;
    ring.full[at.stage()].arrive();
    if (!live) return;
    __syncwarp();
    load_owners(slot);
    at.next();
  }
}

// Tells other blocks of items of passes that later ones join, once they are stored and those of the
// passes before have been told of (pass_order.h): the work of a warp, all of whose lanes call it,
// so that those who store need not wait until it is done.
__device__ inline void tell_passes(const ItemQueue& queue, ItemRing& ring, int lane) {
  for (ItemPosition at;; at.next()) {
    ring.full[at.stage()].wait(at.phase());
    const ItemSlot& slot = ring.slots[at.stage()];
    if (slot.live == 0) return;
    const int32_t counter = slot.counter;
    const bool counts = slot.tile.count > 0;
    ring.stored[at.stage()].wait(at.phase());
    if (counts && lane == 0) {
      cuda::wait_for_count(queue.done + counter, slot.tile.wait);
      cuda::count_tile(queue.done + counter);
    }
    ring.empty[at.stage()].arrive();
  }
}

// Waits until the passes worked on before have left all results of this item's head. Their items
// were taken before this one, by blocks of which nothing before them waits for this one. What they
// left may then be copied. Called by a whole warp.
__device__ inline void wait_for_passes(const ItemQueue& queue, const ItemSlot& item, int lane) {
  if (lane == 0) cuda::wait_for_count(queue.done + item.counter, item.tile.wait);
  __syncwarp();
  fence_copies();
}

// The runs of a tile, of which a warp copies the next one while it works on one.
struct RunWalk {
  const WorkTables& work;
  WorkRun& copy;  // shared memory of the warp's own
  int lane;

  // Calls visit(run) for all runs of `tile` in order. All lanes call it.
  template <typename Visit>
  __device__ void each(const WorkTile& tile, const Visit& visit) const {
    const WorkRun* run = &tile.first_run;
    const int32_t begin = tile.run_begin, end = tile.run_end;
    for (int32_t r = begin; r < end; ++r) {
      uint32_t word = 0;  // of the next run
      if (r + 1 < end && lane < kRunWords) {
        word = __ldg(reinterpret_cast<const uint32_t*>(&work.runs[r + 1]) + lane);
      }
      visit(*run);
      if (r + 1 < end) {
        __syncwarp();
        if (lane < kRunWords) reinterpret_cast<uint32_t*>(&copy)[lane] = word;
        __syncwarp();
        run = &copy;
      }
    }
  }
};

// The masks of a run's tiles, from `tile` on; lanes hold 32 of them. All lanes call its functions.
struct MaskWalk {
  int32_t cycle = 0, held = 0;

  __device__ MaskWalk(const WorkTables& work, const WorkRun& run, int32_t tile, int lane) {
    if (run.mask_cycle <= 1) return;
    cycle = tile % run.mask_cycle;
    hold(work, run, lane);
  }
  __device__ void hold(const WorkTables& work, const WorkRun& run, int lane) {
    const int32_t at = cycle - cycle % 32 + lane;
    if (at < run.mask_cycle) held = __ldg(work.mask_ids + run.mask_begin + at);
  }
  // The mask of the next tile.
  __device__ int32_t next(const WorkTables& work, const WorkRun& run, int lane) {
    if (run.mask_cycle <= 1) return run.mask_cycle == 0 ? -1 : run.mask_begin;
    if (cycle % 32 == 0 && run.mask_cycle > 32) hold(work, run, lane);
    const int32_t mask = __shfl_sync(~0u, held, cycle % 32);
    if (++cycle == run.mask_cycle) cycle = 0;
    return mask;
  }
};
// The first of a mask's rows in mask_rows, of `owners` each.
__device__ inline int32_t mask_row(int32_t mask, int owners) {
  return (mask & kMaskIndex) * owners;
}

// ---- rows of a tile of owners, as the threads of an accumulator hold them

// Rows of 64 · `group` + 16 · warp + lane / 4 and 8 further on, of which a thread has columns.
__device__ inline int first_row(int group, int thread) {
  return group * 64 + thread / 32 * 16 + thread % 32 / 4;
}

// Bit r: whether another pass covers row `row` + 8 r.
__device__ inline uint32_t rows_in(const uint32_t* row_bits, int32_t rows, int32_t bits, int row) {
  if (rows != kSome) return rows == kAll ? 3 : 0;
  return row_in(row_bits, rows, bits, row) | row_in(row_bits, rows, bits, row + 8) << 1;
}

// The row of element e of the tile, −1 where there is none.
__device__ inline int32_t owner_position(const WorkTile& tile, const int32_t* offsets, int32_t e) {
  return in_range(tile.owner_count, e) ? position_in(tile.owners, offsets, e) : -1;
}

// The same for many elements: first + e · step where they are evenly spaced.
struct OwnerRows {
  const WorkTile& tile;
  int32_t range, first, step;
  bool even;
  __device__ explicit OwnerRows(const WorkTile& of)
      : tile(of),
        range(of.owner_count),
        first(of.owners.first),
        step(of.owners.outer == 1 ? 1 : of.owners.stride),
        even(of.owners.outer == 1 || (of.owners.inner == 1 && of.owners.offsets < 0)) {}
  __device__ int32_t position(const int32_t* offsets, int32_t e) const {
    if (!in_range(range, e)) return -1;
    return even ? first + e * step : position_in(tile.owners, offsets, e);
  }
};

// Bits of the others that a row sees, of kOthers in a tile.
template <int kOthers>
struct RowMask {
  static constexpr int kWords = kOthers / 32;
  uint32_t words[kWords];

  __device__ void fill(uint32_t word) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) words[w] = word;
  }
  __device__ void load(const uint32_t* mask_rows, int32_t row) {
    const uint32_t* source = mask_rows + 4 * row;
    if constexpr (kWords == 2) {
      const uint2 loaded = __ldg(reinterpret_cast<const uint2*>(source));
      words[0] = loaded.x, words[1] = loaded.y;
    } else {
      const uint4 loaded = __ldg(reinterpret_cast<const uint4*>(source));
      words[0] = loaded.x, words[1] = loaded.y, words[2] = loaded.z, words[3] = loaded.w;
    }
  }
  // The others of `range` are those that count.
  __device__ void cut(int32_t range) {
    const auto below = [](int32_t count) -> uint32_t {
      return count >= 32 ? ~0u : count <= 0 ? 0u : (1u << count) - 1;
    };
    const int32_t begin = range_begin(range), end = range_end(range);
#pragma unroll
    for (int w = 0; w < kWords; ++w) words[w] &= below(end - 32 * w) & ~below(begin - 32 * w);
  }
};

// Sets scores [64][kOthers] of a warpgroup to −∞ where the masks of a thread's two rows say so.
template <int kCount>
__device__ void apply_masks(float (&scores)[kCount], const RowMask<2 * kCount> (&masks)[2],
                            int lane) {
  const int column = lane % 4 * 2;
#pragma unroll
  for (int w = 0; w < kCount / 16; ++w) {
    const uint32_t a = masks[0].words[w] >> column;
    const uint32_t b = masks[1].words[w] >> column;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float* s = &scores[16 * w + 4 * j];
      if ((a & (1u << (8 * j))) == 0) s[0] = -INFINITY;
      if ((a & (2u << (8 * j))) == 0) s[1] = -INFINITY;
      if ((b & (1u << (8 * j))) == 0) s[2] = -INFINITY;
      if ((b & (2u << (8 * j))) == 0) s[3] = -INFINITY;
    }
  }
}

// The same scores become tanh(scale · score).
template <int kCount>
__device__ void cap_scores(float (&scores)[kCount], float scale) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) scores[i] = cuda::precise_tanh(scale * scores[i]);
}

// One arrival of a whole warp, all of whose lanes call it.
__device__ inline void arrive_warp(Barrier& barrier, int lane) {
  __syncwarp();
  if (lane == 0) barrier.arrive();
}

// Converts and stores one row's kCount columns of an accumulator, 16 bytes a lane. All lanes of a
// quad call it; r: which of the thread's two rows; `dim` columns count.
template <typename Element, int kCount>
__device__ void store_row(const float (&values)[kCount], int r, Element* target, int32_t dim,
                          bool store, int lane) {
#pragma unroll
  for (int j = 0; j < kCount / 4; j += 4) {
    uint32_t v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[i] = pack<Element>(values[4 * (j + i) + 2 * r], values[4 * (j + i) + 2 * r + 1]);
    }
    quad_transpose(v, lane);
    const int column = (j + lane % 4) * 8;
    if (store && column < dim) {
      store_16_bytes(target + column, v);
    }
  }
}

}  // namespace lace::sm90
