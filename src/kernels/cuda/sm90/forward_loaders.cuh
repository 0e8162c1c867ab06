#pragma once

#include <type_traits>

#include "kernels/cuda/sm90/forward_params.h"
#include "kernels/cuda/sm90/hopper.cuh"
#include "kernels/cuda/sm90/items.cuh"
#include "kernels/cuda/sm90/load_set.cuh"

namespace lace::sm90 {

// A block of the forward kernel: its tiles, its shared memory, and the warps that load.

template <typename ElementType, int kQkDimValue, int kVDimValue, ForwardTiling kTiling>
struct ForwardConfig {
  using Element = ElementType;
  static constexpr int kQkDim = kQkDimValue, kVDim = kVDimValue;
  static constexpr int kOwners = tile_of(kTiling).owners, kKeys = tile_of(kTiling).others;
  static constexpr int kConsumers = kOwners / 64;
  static constexpr int kBlocks = kTiling == ForwardTiling::kShort ? 2 : 1;
  // Where two blocks share a multiprocessor, they overlap.
  static constexpr bool kOverlaps = kBlocks == 1;
  // Whether a softcap is in the loop: it would stand between the instructions of all other calls.
  static constexpr bool kCaps = caps(kTiling);
  static constexpr int kThreads = 128 * (1 + kConsumers);
  // A block starts with kStart registers a thread; some are moved from the producer to the
  // consumers, who would wait forever for more than there are.
  static constexpr int kStart = 65536 / kBlocks / kThreads / 8 * 8;
  static constexpr int kConsumerRegisters = kTiling == ForwardTiling::kStandard ? 208
                                            : kTiling == ForwardTiling::kDeep   ? 224
                                            : kTiling == ForwardTiling::kWide   ? 160
                                                                                : 96;
  static constexpr int kProducerRegisters = kTiling == ForwardTiling::kStandard ? 88
                                            : kTiling == ForwardTiling::kDeep   ? 56
                                            : kTiling == ForwardTiling::kShort  ? 48
                                                                                : 32;
  static_assert(kProducerRegisters + kConsumers * kConsumerRegisters <= kStart * (1 + kConsumers));
  static constexpr int kQueryStages = kTiling == ForwardTiling::kDeep ? 1 : 2;
  static constexpr int kStages = kTiling == ForwardTiling::kShort ? 4
                                 : kQkDim + kVDim <= 128          ? 5
                                 : kQkDim + kVDim <= 192          ? 3
                                                                  : 2;
  // With two stages, values are loaded behind the keys of the next tile, whose stage is free
  // sooner. For kDeep, whose tiles of keys are small, that was slower.
  static constexpr bool kValuesLag = kStages == 2 && kTiling != ForwardTiling::kDeep;
  static constexpr int kQuerySliceBytes = kOwners * 128;
  static constexpr int kSliceBytes = kKeys * 128;
  static constexpr int kQueryBytes = kQkDim / 64 * kQuerySliceBytes;
  static constexpr int kKeyBytes = kQkDim / 64 * kSliceBytes;
  static constexpr int kValueBytes = kVDim / 64 * kSliceBytes;
  // Where the tiles lie.
  static constexpr int kKeysAt = kQueryStages * kQueryBytes;
  static constexpr int kValuesAt = kKeysAt + kStages * kKeyBytes;
  // What passes before left: rows in a stage of keys, stages of a tile of owners.
  static constexpr int kPartialRowBytes = kVDim * 4;
  static constexpr int kPartialRows = kKeyBytes / kPartialRowBytes;
  static constexpr int kPartialStages = kOwners / kPartialRows;
  static_assert(kPartialRows % 32 == 0 && kOwners % kPartialRows == 0);
  static constexpr int kTileBytes = kValuesAt + kStages * kValueBytes;
};

// What consumers know of a tile of keys.
struct KeySlot {
  int32_t mask;
  int32_t range;  // keys that there are (pack_range())

  // What the mask says of the 64 rows of consumer `group`.
  __device__ bool dead(int group) const { return mask >= 0 && (mask & kDeadRows << group) != 0; }
  __device__ bool masks(int group) const { return mask >= 0 && (mask & kFullRows << group) == 0; }
};

template <typename Config>
struct ForwardShared {
  Barrier q_full[Config::kQueryStages], q_empty[Config::kQueryStages];
  Barrier k_full[Config::kStages], k_empty[Config::kStages];
  Barrier v_full[Config::kStages], v_empty[Config::kStages];
  ItemRing items;
  KeySlot keys[Config::kStages];
  float partial_lse[Config::kStages][Config::kPartialRows];
  WorkRun run;  // the loading warp's own
  SideMemory side;
};

// The warp that finds items and loads their queries.
template <typename Config, bool kCut>
struct ItemFinder {
  const ForwardParams& params;
  ForwardShared<Config>& shared;
  uint32_t q_smem;
  int lane;
  Ring<Config::kQueryStages> query{};

  // Called by all lanes of one warp.
  __device__ void run() {
    find_items<kCut>(params.queue, shared.items, lane, [&](const ItemSlot& item) {
      shared.q_empty[query.stage()].wait(query.phase() ^ 1);
      const LoadTarget target{params.q,
                              params.q_steps,
                              &shared.q_full[query.stage()],
                              q_smem + query.stage() * Config::kQueryBytes,
                              item.head,
                              item.batch};
      load_owners<Config::kQkDim / 64, Config::kOwners, kCut>(target, params.queue, item, lane);
      query.next();
    });
  }
};

// The warp that loads keys and values.
template <typename Config, bool kCut>
struct KeyLoader {
  const ForwardParams& params;
  ForwardShared<Config>& shared;
  uint32_t q_smem;  // keys and values lie behind the queries
  int lane;
  OthersWalk<kCut> keys{params.queue, shared.side};
  SmallRing<Config::kStages> key{}, value{};

  // Called by all lanes of one warp.
  __device__ void run() {
    const RunWalk runs{params.queue.work, shared.run, lane};
    for (ItemPosition at;; at.next()) {
      shared.items.full[at.stage()].wait(at.phase());
      const ItemSlot& slot = shared.items.slots[at.stage()];
      if (slot.live == 0) return;
      const WorkTile& tile = slot.tile;
      const int32_t kv_head = slot.head / params.heads_per_kv, batch = slot.batch;
      keys.enter(slot, lane);
      runs.each(tile, [&](const WorkRun& run) { load_run(run, kv_head, batch); });
      if (tile.earlier != kNone) follow(key, shared.k_empty, Config::kPartialStages);
      tell_issued(shared.items, at, lane);
    }
  }

  // A tile of others on its way.
  struct Tile {
    BoxPlace place;
    int32_t shift, range;
    bool box;
  };

  __device__ void load_run(const WorkRun& of, int32_t kv_head, int32_t batch) {
    // In registers, as far as there are enough: what tells of a free stage is then followed by a
    // load at once.
    constexpr bool kHolds = Config::kProducerRegisters > 56,
                   kHoldsBox = Config::kProducerRegisters > 48;
    const int32_t* offsets = params.queue.work.offsets;
    const TileRange tiles = keys.enter(of, lane);
    std::conditional_t<kHolds, const WorkRun, const WorkRun&> run = of;
    std::conditional_t<kHolds, const SideMemory, const SideMemory&> memory = shared.side;
    std::conditional_t<kHoldsBox, const SetBox, const WorkSet&> of_box = run.others;
    const Side<kCut> side = keys.side(memory);
    MaskWalk masks(params.queue.work, run, tiles.begin, lane);
    TileWalk walk(run, side, tiles.begin);
    Tile before{walk.place, walk.shift, 0, false};
    const auto load_values = [&](const Tile& tile) {
      shared.v_empty[value.stage()].wait(value.phase() ^ 1);
      load_set<Config::kVDim / 64, Config::kKeys>(
          {params.v, params.v_steps, &shared.v_full[value.stage()],
           q_smem + Config::kValuesAt + value.stage() * Config::kValueBytes, kv_head, batch},
          run.others, of_box, side, tile.place, tile.box, offsets, tile.shift, tile.range, lane);
      value.next();
    };
    for (int32_t left = tiles.end - tiles.begin; left > 0; --left) {
      const bool whole = walk.is_whole(run.others, side);
      const int32_t range = walk.range(run.others, offsets, whole, side);
      const bool box = (whole && !side.cut) ||
                       is_box(run.others, side, walk.place, walk.shift, range, Config::kKeys);
      const int32_t mask = masks.next(params.queue.work, run, lane);
      shared.k_empty[key.stage()].wait(key.phase() ^ 1);
      if (lane == 0) shared.keys[key.stage()] = {mask, range};
      load_set<Config::kQkDim / 64, Config::kKeys, true>(
          {params.k, params.k_steps, &shared.k_full[key.stage()],
           q_smem + Config::kKeysAt + key.stage() * Config::kKeyBytes, kv_head, batch},
          run.others, of_box, side, walk.place, box, offsets, walk.shift, range, lane);
      key.next();
      const Tile tile{walk.place, walk.shift, range, box};
      if constexpr (!Config::kValuesLag) {
        load_values(tile);
      } else {
        if (left < tiles.end - tiles.begin) load_values(before);
        before = tile;
      }
      walk.next(run);
    }
    if (Config::kValuesLag && tiles.begin < tiles.end) load_values(before);
  }
};

// What the first two warps do; kCut: with sequences, whose code others shall not pay for.
template <typename Config, bool kCut>
__device__ void load_items(const ForwardParams& params, ForwardShared<Config>& shared,
                           uint32_t q_smem, int lane) {
  if (threadIdx.x < 32) {
    KeyLoader<Config, kCut>{params, shared, q_smem, lane}.run();
  } else {
    ItemFinder<Config, kCut>{params, shared, q_smem, lane}.run();
  }
}

// The warp that copies what passes before left.
template <typename Config>
struct PartialLoader {
  const ForwardParams& params;
  ForwardShared<Config>& shared;
  uint32_t q_smem;
  int lane;
  Ring<Config::kStages> key{};

  __device__ void run() {
    for (ItemPosition at;; at.next()) {
      shared.items.full[at.stage()].wait(at.phase());
      const ItemSlot& item = shared.items.slots[at.stage()];
      if (item.live == 0) return;
      if (params.queue.joins) follow(key, shared.k_empty, item.tile.tiles);
      if (item.tile.earlier != kNone) join(item);
      shared.items.empty[at.stage()].arrive();
    }
  }

  __device__ void join(const ItemSlot& item) {
    constexpr int kOwn = Config::kOwners / 32;  // rows of a lane: lane + 32 i
    wait_for_passes(params.queue, item, lane);
    const int64_t first =
        static_cast<int64_t>(item.batch * params.queue.heads + item.head) * params.q_len;
    int32_t rows[kOwn];  // −1: none
    float lse[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int32_t e = lane + 32 * i;
      rows[i] = owner_position(item.tile, params.queue.work.offsets, e);
      const bool covered = rows[i] >= 0 && row_in(params.queue.work.row_bits, item.tile.earlier,
                                                  item.tile.earlier_bits, e);
      if (!covered) rows[i] = -1;
      lse[i] = covered ? __ldcg(params.lse + first + rows[i]) : -INFINITY;
    }
    constexpr int kOfStage = Config::kPartialRows / 32;
    const float* partial = params.partial + first * Config::kVDim;
#pragma unroll 1  // less code: what all warps of kShort run hardly fits the nearest cache
    for (int i = 0; i < kOwn; i += kOfStage) {
      copy<kOfStage>(partial, item.tile.owners.outer == 1, rows, lse);
#pragma unroll
      for (int j = 0; j + kOfStage < kOwn; ++j) {  // the rows of the next stage
        rows[j] = rows[j + kOfStage];
        lse[j] = lse[j + kOfStage];
      }
    }
  }

  // A stage of rows.
  template <int kCount>
  __device__ void copy(const float* partial, bool in_a_row, const int32_t* rows, const float* lse) {
    constexpr uint32_t kBytes = Config::kPartialRowBytes;
    shared.k_empty[key.stage()].wait(key.phase() ^ 1);
    Barrier& full = shared.k_full[key.stage()];
    int found = 0;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      shared.partial_lse[key.stage()][lane + 32 * i] = lse[i];
      found += __popc(__ballot_sync(~0u, rows[i] >= 0));
    }
    __syncwarp();
    arrive_expecting<true>(full, found * kBytes, lane);
    __syncwarp();
    const uint32_t target = q_smem + Config::kKeysAt + key.stage() * Config::kKeyBytes;
    const auto source = [&](int i) -> const float* {
      return partial + int64_t{rows[i]} * Config::kVDim;
    };
    if (in_a_row && found == 32 * kCount) {
      if (lane == 0) copy_bulk(target, source(0), Config::kKeyBytes, full);
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (rows[i] >= 0) copy_bulk(target + (lane + 32 * i) * kBytes, source(i), kBytes, full);
      }
    }
    key.next();
  }
};

}  // namespace lace::sm90
