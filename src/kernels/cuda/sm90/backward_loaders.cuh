#pragma once

#include "kernels/cuda/sm90/backward_params.h"
#include "kernels/cuda/sm90/hopper.cuh"
#include "kernels/cuda/sm90/items.cuh"
#include "kernels/cuda/sm90/load_set.cuh"

namespace lace::sm90 {

// A block of the backward kernels: its tiles, its shared memory, and the warps that load.

template <typename ElementType, int kDimValue, BackwardMode kModeValue, bool kCapsValue>
struct BackwardConfig {
  using Element = ElementType;
  static constexpr BackwardMode kMode = kModeValue;
  static constexpr bool kCaps = kCapsValue;
  static constexpr bool kByKeys = kMode != BackwardMode::kQueries;
  static constexpr bool kAddsDq = kMode == BackwardMode::kKeys;
  // The sums of owners.
  static constexpr bool kHasD0 = kMode != BackwardMode::kDvAlone;
  static constexpr bool kHasD1 = kByKeys && kMode != BackwardMode::kDkAlone;
  static constexpr int kDim = kDimValue, kSlices = kDim / 64;
  // One sum, which takes 128 registers of a thread, and no dq: consumers do not meet. Tiles of y1
  // come in a ring of their own, as there is room for an odd number of tiles.
  static constexpr bool kDeep = kDim > 128;
  static_assert(!kDeep || (!kAddsDq && kHasD0 != kHasD1));
  static constexpr TileShape kTile = backward_tile(kDim, kMode);
  static constexpr int kOwners = kTile.owners, kOthers = kTile.others;
  static constexpr int kConsumers = kOwners / 64;
  static constexpr int kThreads = 128 * (1 + kConsumers);
  // A block starts with 168 registers a thread; some are moved from the producer to the consumers,
  // who would wait forever for more than there are.
  static constexpr int kProducerRegisters = 56, kConsumerRegisters = 224;
  static_assert(kProducerRegisters + kConsumers * kConsumerRegisters <= 168 * (1 + kConsumers));
  static constexpr int kOwnerStages = kDim == 64 ? 2 : 1;
  static constexpr int kOwnerTensors = kHasD0 ? 2 : 1;  // dv alone needs no x1
  // For KEYS at 128 a third stage, for which there would be room, makes long items slower.
  static constexpr int kStages = kDeep || (kDim == 128 && (!kByKeys || kAddsDq)) ? 2 : 3;
  static constexpr int kSecondStages = kDeep && kHasD0 ? 1 : kStages;  // of y1
  static constexpr int kOwnerSliceBytes = kOwners * 128, kOtherSliceBytes = kOthers * 128;
  static constexpr int kOwnerBytes = kSlices * kOwnerSliceBytes;
  static constexpr int kOtherBytes = kSlices * kOtherSliceBytes;
  // ds [kOthers / 64][kOwners][64]
  static constexpr int kScoreBytes = kAddsDq ? kOthers / 64 * kOwnerSliceBytes : 0;
  // With 128 queries a tile a consumer computes dq of 64 of them, else of 64 columns. These 64 × 64
  // wait for the copy that adds them in the part of ds that the consumer alone has read, else in
  // room of their own.
  static constexpr bool kSplitsQueries = kOthers == 128;
  static constexpr int kDqBytes = kAddsDq && !kSplitsQueries ? kConsumers * 64 * 64 * 4 : 0;
  static constexpr int kTileBytes = kOwnerTensors * kOwnerStages * kOwnerBytes +
                                    (kStages + kSecondStages) * kOtherBytes + kScoreBytes +
                                    kDqBytes;
  // What passes before left of d0 and d1: a stage holds 64 columns of all owners, of each consumer
  // where one of the two tiles else is.
  static constexpr int kSumStages = 2 * kSlices;
  static constexpr uint32_t kSumRowBytes = 64 * 4;
  static_assert(!kAddsDq || 64 * kSumRowBytes == kOtherBytes);
};

// Where something of a column of scores lies, so that a thread's four of each 16 columns are side
// by side.
__device__ constexpr int score_order(int column) {
  return column / 16 * 16 + column % 8 / 2 * 4 + column / 8 % 2 * 2 + column % 2;
}

// What consumers know of a tile of others.
template <typename Config>
struct alignas(16) OtherSlot {
  int32_t mask;
  int32_t range;  // others that there are (pack_range())
  int32_t head;   // of the queries
  // Where owners are keys, of the queries (RowStatistics), in the order of score_order; their
  // positions, −1: none.
  alignas(16) float lse[Config::kByKeys ? Config::kOthers : 4];
  alignas(16) float delta[Config::kByKeys ? Config::kOthers : 4];
  int32_t rows[Config::kAddsDq ? Config::kOthers : 1];
  int32_t in_a_row;  // all of them, one after the other
};

template <typename Config>
struct BackwardShared {
  Barrier owner_full[Config::kOwnerStages], owner_empty[Config::kOwnerStages];
  Barrier full[Config::kStages], empty[Config::kStages];
  // kDeep: of y1, where `full` and `empty` are of y0 and what consumers know.
  static constexpr int kSecondStages = Config::kDeep ? Config::kSecondStages : 1;
  Barrier second_full[kSecondStages], second_empty[kSecondStages];
  ItemRing items;
  OtherSlot<Config> others[Config::kStages];
  WorkRun runs[2];  // the loading warps' own
  SideMemory sides[2];
};

// Addresses of the tiles in shared memory.
template <typename Config>
struct BackwardTiles {
  uint32_t x0, x1, y0, y1, ds, dq;
  __device__ explicit BackwardTiles(uint32_t base)
      : x0(base),
        x1(x0 + Config::kOwnerStages * Config::kOwnerBytes),
        y0(x0 + Config::kOwnerTensors * Config::kOwnerStages * Config::kOwnerBytes),
        y1(y0 + Config::kStages * Config::kOtherBytes),
        ds(y1 + Config::kSecondStages * Config::kOtherBytes),
        dq(ds + Config::kScoreBytes) {}
};

// Loads owners, item by item: for the warp that loads tiles, or (kDeep) the one that finds items.
template <typename Config, bool kCut>
struct OwnerLoader {
  const BackwardParams& params;
  BackwardShared<Config>& shared;
  const BackwardTiles<Config>& tiles;
  int lane;
  Ring<Config::kOwnerStages> owner{};

  // Called by all lanes of a warp.
  __device__ void load(const ItemSlot& item) {
    shared.owner_empty[owner.stage()].wait(owner.phase() ^ 1);
    // Consumers read what passes before left.
    if (!Config::kAddsDq && item.tile.earlier != kNone) wait_for_passes(params.queue, item, lane);
    Barrier* full = &shared.owner_full[owner.stage()];
    const int32_t first_head = item.head * params.members;
    const int32_t head = Config::kByKeys ? first_head / params.heads_per_kv : first_head;
    const uint32_t offset = owner.stage() * Config::kOwnerBytes;
    load_owners<Config::kSlices, Config::kOwners, kCut>(
        {params.x0, params.x0_steps, full, tiles.x0 + offset, head, item.batch}, params.queue, item,
        lane);
    if constexpr (Config::kOwnerTensors == 2) {
      load_owners<Config::kSlices, Config::kOwners, kCut>(
          {params.x1, params.x1_steps, full, tiles.x1 + offset, head, item.batch}, params.queue,
          item, lane);
    }
    owner.next();
  }
};

// The warp that loads tiles.
template <typename Config, bool kCut>
struct BackwardLoader {
  const BackwardParams& params;
  BackwardShared<Config>& shared;
  const BackwardTiles<Config>& tiles;
  int lane;
  OthersWalk<kCut> others{params.queue, shared.sides[0]};
  OwnerLoader<Config, kCut> owners{params, shared, tiles, lane};
  Ring<Config::kStages> other{};
  Ring<Config::kSecondStages> second{};

  __device__ void run() {
    const RunWalk runs{params.queue.work, shared.runs[0], lane};
    for (ItemPosition at;; at.next()) {
      shared.items.full[at.stage()].wait(at.phase());
      const ItemSlot& slot = shared.items.slots[at.stage()];
      if (slot.live == 0) return;
      const int32_t first_head = slot.head * params.members, batch = slot.batch;
      if constexpr (!Config::kDeep) owners.load(slot);
      others.enter(slot, lane);
      for (int32_t m = 0; m < params.members; ++m) {
        runs.each(slot.tile, [&](const WorkRun& run) { load_run(run, first_head + m, batch); });
      }
      if constexpr (Config::kAddsDq) {
        if (slot.tile.earlier != kNone) leave_sums();
      }
      tell_issued(shared.items, at, lane);
    }
  }

  // The stages that the reading warp fills, without the loads of this one.
  __device__ void leave_sums() {
#pragma unroll 1
    for (int s = 0; s < Config::kSumStages; ++s) {
      shared.empty[other.stage()].wait(other.phase() ^ 1);
      if (lane == 0) {
        shared.full[other.stage()].arrive();
        shared.full[other.stage()].arrive();
      }
      other.next();
    }
  }

  __device__ void load_run(const WorkRun& run, int32_t head, int32_t batch) {
    const int32_t* offsets = params.queue.work.offsets;
    const int32_t other_head = Config::kByKeys ? head : head / params.heads_per_kv;
    const TileRange of_run = others.enter(run, lane);
    const Side<kCut> side = others.side();
    MaskWalk masks(params.queue.work, run, of_run.begin, lane);
    TileWalk walk(run, side, of_run.begin);
    for (int32_t left = of_run.end - of_run.begin; left > 0; --left) {
      const bool whole = walk.is_whole(run.others, side);
      const int32_t range = walk.range(run.others, offsets, whole, side);
      const bool box = (whole && !side.cut) ||
                       is_box(run.others, side, walk.place, walk.shift, range, Config::kOthers);
      const int32_t mask = masks.next(params.queue.work, run, lane);
      shared.empty[other.stage()].wait(other.phase() ^ 1);
      if (lane == 0) {
        OtherSlot<Config>& slot = shared.others[other.stage()];
        slot.mask = mask;
        slot.range = range;
        slot.head = head;
      }
      const auto load = [&](const CUtensorMap* maps, const MapSteps& steps, Barrier& full,
                            uint32_t tile) {
        load_set<Config::kSlices, Config::kOthers>({maps, steps, &full, tile, other_head, batch},
                                                   run.others, run.others, side, walk.place, box,
                                                   offsets, walk.shift, range, lane);
      };
      Barrier& full = shared.full[other.stage()];
      load(params.y0, params.y0_steps, full, tiles.y0 + other.stage() * Config::kOtherBytes);
      if constexpr (Config::kDeep) {
        shared.second_empty[second.stage()].wait(second.phase() ^ 1);
        load(params.y1, params.y1_steps, shared.second_full[second.stage()],
             tiles.y1 + second.stage() * Config::kOtherBytes);
        second.next();
      } else {
        load(params.y1, params.y1_steps, full, tiles.y1 + other.stage() * Config::kOtherBytes);
      }
      other.next();
      walk.next(run);
    }
  }
};

// Those of a row of a head; −1: of a row that counts for nothing.
__device__ inline RowStatistics statistics_of(const RowStatistics* head, int32_t row) {
  if (row < 0) return {INFINITY, 0};
  const float2 x = __ldg(reinterpret_cast<const float2*>(head + row));
  return {x.x, x.y};
}

// The warp that reads the statistics of the queries of each tile, before there is room for them,
// and for kKeys copies what passes before left.
template <typename Config, bool kCut>
struct BackwardReader {
  static constexpr int kOwn = Config::kOthers / 32;  // queries of a lane: lane + 32 i
  const BackwardParams& params;
  BackwardShared<Config>& shared;
  const BackwardTiles<Config>& tiles;
  int lane;
  OthersWalk<kCut> queries{params.queue, shared.sides[1]};
  Ring<Config::kStages> other{};

  __device__ void run() {
    const RunWalk runs{params.queue.work, shared.runs[1], lane};
    for (ItemPosition at;; at.next()) {
      shared.items.full[at.stage()].wait(at.phase());
      const ItemSlot& slot = shared.items.slots[at.stage()];
      if (slot.live == 0) return;
      const int32_t first_head = slot.batch * params.heads + slot.head * params.members;
      queries.enter(slot, lane);
      for (int32_t m = 0; m < params.members; ++m) {
        runs.each(slot.tile, [&](const WorkRun& run) { read_run(run, first_head + m); });
      }
      if constexpr (Config::kAddsDq) {
        if (slot.tile.earlier != kNone) copy_sums(slot);
      }
      shared.items.empty[at.stage()].arrive();
    }
  }

  // head: of all heads of the batch
  __device__ void read_run(const WorkRun& run, int32_t head) {
    const RowStatistics* source = params.statistics + static_cast<int64_t>(head) * params.q_len;
    const TileRange of_run = queries.enter(run, lane);
    const Side<kCut> side = queries.side();
    const Extent& extent = side.extent;
    int32_t elements[kOwn];  // positions in tile 0
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int32_t e = lane + 32 * i;
      const bool inside = e < run.others.inner * run.others.outer;
      elements[i] = inside ? position_in(run.others, params.queue.work.offsets, e) : -1;
    }
    for (int32_t t = of_run.begin; t < of_run.end; ++t) {
      int32_t rows[kOwn];
      RowStatistics statistics[kOwn];
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        const int32_t position = elements[i] + t * run.step;
        const bool inside = elements[i] >= 0 && position >= extent.begin && position < extent.end;
        rows[i] = inside ? position + extent.row : -1;
        statistics[i] = statistics_of(source, rows[i]);
      }
      const int32_t first = run.others.first + t * run.step;
      const bool in_a_row = run.others.outer == 1 && run.others.inner == Config::kOthers &&
                            first >= extent.begin && first + Config::kOthers <= extent.end;
      shared.empty[other.stage()].wait(other.phase() ^ 1);
      OtherSlot<Config>& slot = shared.others[other.stage()];
      if (lane == 0) slot.in_a_row = in_a_row;
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        const int e = lane + 32 * i;
        slot.lse[score_order(e)] = statistics[i].lse;
        slot.delta[score_order(e)] = statistics[i].delta;
        if constexpr (Config::kAddsDq) slot.rows[e] = rows[i];
      }
      shared.full[other.stage()].arrive();
      other.next();
    }
  }

  __device__ void copy_sums(const ItemSlot& item) {
    wait_for_passes(params.queue, item, lane);
    const int64_t head = item.batch * params.queue.heads + item.head;
    int64_t rows[4];  // of the sums, of owners lane + 32 i; −1: none
    int found = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int32_t e = lane + 32 * i;
      const int32_t at = owner_position(item.tile, params.queue.work.offsets, e);
      const bool covered = at >= 0 && row_in(params.queue.work.row_bits, item.tile.earlier,
                                             item.tile.earlier_bits, e);
      rows[i] = covered ? head * params.owner_len + at : -1;
      found += __popc(__ballot_sync(~0u, covered));
    }
    const bool in_one =
        found == Config::kOwners && item.tile.owners.outer == 1 && Config::kSlices == 1;
#pragma unroll 1
    for (int s = 0; s < Config::kSumStages; ++s) {
      const float* sums = s < Config::kSlices ? params.d0.sums : params.d1.sums;
      sums += s % Config::kSlices * 64;
      shared.empty[other.stage()].wait(other.phase() ^ 1);
      Barrier& full = shared.full[other.stage()];
      if (lane == 0) full.expect_transaction(found * Config::kSumRowBytes);
      __syncwarp();
      const uint32_t targets[2] = {tiles.y0 + other.stage() * Config::kOtherBytes,
                                   tiles.y1 + other.stage() * Config::kOtherBytes};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* source = sums + rows[i] * Config::kDim;
        if (in_one) {
          if (i % 2 == 0 && lane == 0) {
            copy_bulk(targets[i / 2], source, Config::kOtherBytes, full);
          }
        } else if (rows[i] >= 0) {
          copy_bulk(targets[i / 2] + (lane + 32 * (i % 2)) * Config::kSumRowBytes, source,
                    Config::kSumRowBytes, full);
        }
      }
      full.arrive();
      other.next();
    }
  }
};

// What the first three warps do; kCut: with sequences, whose code others shall not pay for.
template <typename Config, bool kCut>
__device__ void load_items(const BackwardParams& params, BackwardShared<Config>& shared,
                           const BackwardTiles<Config>& tiles, int lane) {
  if (threadIdx.x < 32) {
    BackwardLoader<Config, kCut>{params, shared, tiles, lane}.run();
  } else if (threadIdx.x < 64) {
    // Else the owners are loaded with the others: there nobody waits for the warp that loads.
    OwnerLoader<Config, kCut> owners{params, shared, tiles, lane};
    find_items<kCut>(params.queue, shared.items, lane, [&](const ItemSlot& item) {
      if constexpr (Config::kDeep) owners.load(item);
    });
  } else if constexpr (Config::kByKeys) {
    BackwardReader<Config, kCut>{params, shared, tiles, lane}.run();
  }
}

}  // namespace lace::sm90
