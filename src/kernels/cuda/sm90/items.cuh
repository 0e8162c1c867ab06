#pragma once

#include "kernels/cuda/passes.cuh"
#include "kernels/cuda/sm90/hopper.cuh"
#include "kernels/cuda/sm90/load_set.cuh"
#include "kernels/cuda/sm90/uploaded_work.h"

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

// Follows `count` stages that another warp fills. A barrier tells a phase only from the one before
// it: so each is waited for, and takes arrivals of who follows too. Called by a whole warp.
template <int kStages>
__device__ void follow(Ring<kStages>& ring, Barrier (&empty)[kStages], int32_t count) {
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

struct ItemSlot {
  WorkTile tile;
  int32_t batch, head;
  int32_t live;  // 0: no more items
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

// Takes the items of this block, one after the other, and after the last one says so: the work of a
// warp, all of whose lanes call it. load_owners(slot) loads what the item keeps on chip.
template <typename LoadOwners>
__device__ void find_items(const ItemQueue& queue, ItemRing& ring, int lane,
                           const LoadOwners& load_owners) {
  ItemPosition at, issued;
  for (bool first = true;; first = false) {
    ring.empty[at.stage()].wait(at.phase() ^ 1);
    if (!first && !queue.takes_ahead) {
      ring.issued[issued.stage()].wait(issued.phase());
      issued.next();
    }
    int32_t item = 0;
    if (lane == 0) item = atomicAdd(queue.next_item, 1);
    item = __shfl_sync(~0u, item, 0);
    ItemSlot& slot = ring.slots[at.stage()];
    const bool live = item < queue.items;
    if (live) {
      const Item found = find_item(queue, item);
      reinterpret_cast<uint32_t*>(&slot.tile)[lane] =
          __ldg(reinterpret_cast<const uint32_t*>(found.tile) + lane);
      if (lane == 0) slot.batch = found.batch, slot.head = found.head;
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
    const int32_t counter = slot.batch * queue.heads + slot.head;
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
  const int32_t* done = queue.done + item.batch * queue.heads + item.head;
  if (lane == 0) cuda::wait_for_count(done, item.tile.wait);
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

// The masks of a run's tiles, in turn; lanes hold 32 of them.
struct MaskWalk {
  int32_t cycle = 0, held = 0;
  bool begun = false;

  // The mask of the next tile. All lanes call it.
  __device__ int32_t next(const WorkTables& work, const WorkRun& run, int lane) {
    if (run.mask_cycle <= 1) return run.mask_cycle == 0 ? -1 : run.mask_begin;
    if (cycle % 32 == 0 && (!begun || run.mask_cycle > 32)) {
      begun = true;
      if (cycle + lane < run.mask_cycle) {
        held = __ldg(work.mask_ids + run.mask_begin + cycle + lane);
      }
    }
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

// The position of element e of the tile, −1 past its end.
__device__ inline int32_t owner_position(const WorkTile& tile, const int32_t* offsets, int32_t e) {
  return e < tile.owner_count ? position_in(tile.owners, offsets, e) : -1;
}

// The same for many elements: first + e · step where they are evenly spaced.
struct OwnerRows {
  const WorkTile& tile;
  int32_t count, first, step;
  bool even;
  __device__ explicit OwnerRows(const WorkTile& of)
      : tile(of),
        count(of.owner_count),
        first(of.owners.first),
        step(of.owners.outer == 1 ? 1 : of.owners.stride),
        even(of.owners.outer == 1 || (of.owners.inner == 1 && of.owners.offsets < 0)) {}
  __device__ int32_t position(const int32_t* offsets, int32_t e) const {
    if (e >= count) return -1;
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
  // The first `limit` others are those that count.
  __device__ void cut(int32_t limit) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const int count = limit - 32 * w;
      if (count < 32) words[w] &= count <= 0 ? 0u : (1u << count) - 1;
    }
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
