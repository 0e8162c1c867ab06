#pragma once

#include <algorithm>

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/sm90/forward_params.h"
#include "kernels/cuda/sm90/hopper.cuh"
#include "kernels/cuda/sm90/items.cuh"
#include "kernels/cuda/sm90/load_set.cuh"

namespace lace::sm90 {

// One persistent launch does all passes of a plan. A block is a warpgroup that produces (one warp
// finds items, that is (tile of owners, head, batch), in the order of work.h; one walks their runs
// and issues TMA loads) and two or three that consume (64 rows of owners each). The queries and
// first keys of the next items are loaded while one is computed.
//
// Within a consumer q kᵀ of a tile is issued before p v of the tile before, whose products run
// while the softmax of the tile is computed. Tiles in which a consumer has no live pair it leaves out.
template <typename ElementType, int kQkDimValue, int kVDimValue, ForwardTiling kTiling>
struct ForwardConfig {
  using Element = ElementType;
  static constexpr int kQkDim = kQkDimValue, kVDim = kVDimValue;
  static constexpr int kConsumers = kTiling == ForwardTiling::kWide ? 3 : 2;
  static constexpr int kKeys = kTiling == ForwardTiling::kShort ? 64 : 128;
  static constexpr int kBlocks = forward_blocks(kTiling);
  // Where two blocks share a multiprocessor, they overlap.
  static constexpr bool kOverlaps = kBlocks == 1;
  static constexpr int kThreads = 128 * (1 + kConsumers);
  // A block starts with kStart registers a thread; some are moved from the producer to the
  // consumers, who would wait forever for more than there are.
  static constexpr int kStart = 65536 / kBlocks / kThreads / 8 * 8;
  static constexpr int kProducerRegisters = kTiling == ForwardTiling::kStandard ? 56 : 32;
  static constexpr int kConsumerRegisters = kTiling == ForwardTiling::kStandard ? 224
                                            : kTiling == ForwardTiling::kWide   ? 160
                                                                                : 104;
  static_assert(kProducerRegisters + kConsumers * kConsumerRegisters <= kStart * (1 + kConsumers));
  static constexpr int kOwners = 64 * kConsumers;
  static constexpr int kQueryStages = 2;
  static constexpr int kStages = kTiling == ForwardTiling::kShort ? 4
                                 : kQkDim + kVDim <= 128          ? 5
                                 : kQkDim + kVDim <= 192          ? 3
                                                                  : 2;
  static constexpr int kQuerySliceBytes = kOwners * 128;
  static constexpr int kSliceBytes = kKeys * 128;
  static constexpr int kQueryBytes = kQkDim / 64 * kQuerySliceBytes;
  static constexpr int kKeyBytes = kQkDim / 64 * kSliceBytes;
  static constexpr int kValueBytes = kVDim / 64 * kSliceBytes;
  // Where the tiles lie.
  static constexpr int kKeysAt = kQueryStages * kQueryBytes;
  static constexpr int kValuesAt = kKeysAt + kStages * kKeyBytes;
  static constexpr int kTileBytes = kValuesAt + kStages * kValueBytes;
};

// What consumers know of a tile of keys.
struct KeySlot {
  int32_t mask;    // row of mask_rows, −1: none
  int32_t limit;   // keys that count
  uint32_t flags;  // of the mask
};

template <typename Config>
struct ForwardShared {
  Barrier q_full[Config::kQueryStages], q_empty[Config::kQueryStages];
  Barrier k_full[Config::kStages], k_empty[Config::kStages];
  Barrier v_full[Config::kStages], v_empty[Config::kStages];
  ItemRing items;
  KeySlot keys[Config::kStages];
  WorkRun run;  // the loading warp's own
};

// ---- producer

template <typename Config>
struct Producer {
  const ForwardParams& params;
  ForwardShared<Config>& shared;
  uint32_t q_smem;  // keys and values lie behind the queries
  int lane;
  Ring<Config::kQueryStages> query{};
  Ring<Config::kStages> key{};

  // Called by all lanes of one warp.
  __device__ void run() {
    const RunWalk runs{params.space.work, shared.run, lane};
    for (ItemPosition at;; at.next()) {
      shared.items.full[at.stage].wait(at.phase);
      const ItemSlot& slot = shared.items.slots[at.stage];
      if (slot.live == 0) return;
      const WorkTile& tile = slot.tile;
      const int32_t head = slot.head, batch = slot.batch;
      shared.q_empty[query.stage].wait(query.phase ^ 1);
      wait_for_passes(params.space, tile.wait * Config::kConsumers * 4, head, batch, lane);
      const LoadTarget target{params.q, &shared.q_full[query.stage],
                              q_smem + query.stage * Config::kQueryBytes, head, batch};
      load_set<Config::kQkDim / 64, Config::kOwners>(target, tile.owners, params.space.work.offsets,
                                                     0, tile.owner_count, lane);
      query.next();
      const int32_t kv_head = head / params.heads_per_kv;
      runs.each(tile, [&](const WorkRun& run) { load_run(run, kv_head, batch); });
      tell_issued(shared.items, at, lane);
    }
  }

  __device__ void load_run(const WorkRun& run, int32_t kv_head, int32_t batch) {
    MaskWalk masks;
    for (int32_t t = 0; t < run.tiles; ++t) {
      const int32_t shift = t * run.step;
      const int32_t limit =
          count_before(run.others, params.space.work.offsets, shift, params.k_len);
      const int32_t mask = masks.next(params.space.work, run);
      uint32_t flags = 0;
      if (mask >= 0) flags = __ldg(params.space.work.mask_flags + mask);
      shared.k_empty[key.stage].wait(key.phase ^ 1);
      if (lane == 0)
        shared.keys[key.stage] = {mask < 0 ? -1 : mask * Config::kOwners, limit, flags};
      const LoadTarget k{params.k, &shared.k_full[key.stage],
                         q_smem + Config::kKeysAt + key.stage * Config::kKeyBytes, kv_head, batch};
      load_set<Config::kQkDim / 64, Config::kKeys>(k, run.others, params.space.work.offsets, shift,
                                                   limit, lane);
      shared.v_empty[key.stage].wait(key.phase ^ 1);
      const LoadTarget v{params.v, &shared.v_full[key.stage],
                         q_smem + Config::kValuesAt + key.stage * Config::kValueBytes, kv_head,
                         batch};
      load_set<Config::kVDim / 64, Config::kKeys>(v, run.others, params.space.work.offsets, shift,
                                                  limit, lane);
      key.next();
    }
  }
};

// ---- consumers

// The online softmax of the two rows of a thread, in base 2.
struct Softmax {
  float max[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};  // of this thread's columns

  // s: scores of a tile, then their weights. Returns in `rescale` what weighs the tiles before.
  template <int kCount>
  __device__ void step(float (&s)[kCount], float scale, float (&rescale)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float highs[4];  // short chains
#pragma unroll
      for (int i = 0; i < 4; ++i) highs[i] = s[4 * (i / 2) + 2 * r + i % 2];
#pragma unroll
      for (int j = 2; j < kCount / 4; ++j) {
        highs[j % 2 * 2] = fmaxf(highs[j % 2 * 2], s[4 * j + 2 * r]);
        highs[j % 2 * 2 + 1] = fmaxf(highs[j % 2 * 2 + 1], s[4 * j + 2 * r + 1]);
      }
      float high = fmaxf(fmaxf(highs[0], highs[1]), fmaxf(highs[2], highs[3]));
      high = fmaxf(quad_max(high), max[r]);
      const float base = high == -INFINITY ? 0.f : high * scale;
      rescale[r] = exp2_approx(max[r] * scale - base);
      max[r] = high;
      float total = 0;
#pragma unroll
      for (int j = 0; j < kCount / 4; ++j) {
        float& a = s[4 * j + 2 * r];
        float& b = s[4 * j + 2 * r + 1];
        a = exp2_approx(a * scale - base);
        b = exp2_approx(b * scale - base);
        total += a + b;
      }
      sum[r] = sum[r] * rescale[r] + total;
    }
  }
};

template <typename Config>
struct Consumer {
  using Element = typename Config::Element;
  static constexpr int kKeys = Config::kKeys;
  const ForwardParams& params;
  ForwardShared<Config>& shared;
  uint32_t q_smem;  // keys and values lie behind the queries
  int group;        // of its warpgroup among the consumers
  int thread;       // in the warpgroup
  Ring<Config::kQueryStages> query{};
  Ring<Config::kStages> key{}, value{};
  float scores[kKeys / 2];
  uint32_t weights[kKeys / 4];
  float out[Config::kVDim / 2];
  PassTeller teller{};

  __device__ int lane() const { return thread % 32; }
  // The first of this thread's two rows of the tile; the other is 8 further on.
  __device__ int row() const { return first_row(group, thread); }

  __device__ void arrive(Barrier& barrier) { arrive_warp(barrier, lane()); }
  __device__ void issue_scores() {
    const uint32_t k = q_smem + Config::kKeysAt + key.stage * Config::kKeyBytes;
    const uint64_t keys = tile_descriptor(k, Config::kSliceBytes);
    fence_registers(scores);
    cute::warpgroup_arrive();
    const uint32_t q = q_smem + query.stage * Config::kQueryBytes + group * 64 * 128;
    multiply_transposed<Element, kKeys, Config::kQkDim>(
        scores, tile_descriptor(q, Config::kQuerySliceBytes), Config::kQuerySliceBytes, keys,
        Config::kSliceBytes);
    cute::warpgroup_commit_batch();
  }
  __device__ void issue_values() {
    const uint32_t v = q_smem + Config::kValuesAt + values().stage * Config::kValueBytes;
    fence_registers(out);
    cute::warpgroup_arrive();
    multiply_add<Element, Config::kVDim, kKeys>(out, weights,
                                                tile_descriptor(v, Config::kSliceBytes));
    cute::warpgroup_commit_batch();
  }

  __device__ bool masks_rows(const KeySlot& slot) const {
    return slot.mask >= 0 && (slot.flags >> group & kFullRows) == 0;
  }
  // Loads what mask_scores() applies.
  __device__ void load_masks(const KeySlot& slot, RowMask<kKeys> (&masks)[2]) {
    if (!masks_rows(slot)) {
      masks[0].fill(~0u);
      masks[1].fill(~0u);
      return;
    }
    masks[0].load(params.space.work.mask_rows, slot.mask + row());
    masks[1].load(params.space.work.mask_rows, slot.mask + row() + 8);
  }
  __device__ void mask_scores(const KeySlot& slot, RowMask<kKeys> (&masks)[2]) {
    if (!masks_rows(slot) && slot.limit >= kKeys) return;
    if (slot.limit < kKeys) {
      masks[0].cut(slot.limit);
      masks[1].cut(slot.limit);
    }
    apply_masks(scores, masks, lane());
  }

  __device__ void pack_weights() {
#pragma unroll
    for (int i = 0; i < kKeys / 4; ++i) {
      weights[i] = pack<Element>(scores[2 * i], scores[2 * i + 1]);
    }
  }

  // After start(), as late as may be: its loads are on their way.
  __device__ void begin(Softmax& softmax) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      softmax.max[r] *= params.inverse_scale_log2;
      softmax.sum[r] = softmax.max[r] > -INFINITY && lane() % 4 == 0 ? 1 : 0;
    }
  }
  __device__ void rescale_out(const float (&rescale)[2]) {
#pragma unroll
    for (int i = 0; i < Config::kVDim / 2; ++i) out[i] *= rescale[i / 2 % 2];
  }
  __device__ void release_queries() {
    arrive(shared.q_empty[query.stage]);
    query.next();
  }

  // Where a block is alone on its multiprocessor, consumers issue the products of a tile in turn, so
  // that the softmax of one runs beside the products of the others.
  __device__ void wait_turn() const {
    if constexpr (Config::kOverlaps) cutlass::arch::NamedBarrier::sync(2 * 128, 1 + group);
  }
  __device__ void pass_turn() const {
    const int next = group + 1 == Config::kConsumers ? 0 : group + 1;
    if constexpr (Config::kOverlaps) cutlass::arch::NamedBarrier::arrive(2 * 128, 1 + next);
  }

  // All tiles of keys of one item. joined: out and softmax start with what a pass before left.
  __device__ void run_item(int32_t tiles, bool joined, Softmax& softmax) {
    int32_t left = skip_dead(tiles);
    while (left > 0) {
      weigh(joined, softmax);
      joined = false;
      --left;
      if constexpr (Config::kOverlaps) {
        for (; left > 0 && !next_is_dead(); --left) weigh_next(softmax);
      }
      add_values();
      left = skip_dead(left);
    }
    if (joined) begin(softmax);
    release_queries();
  }
  // Whether this consumer has no live pair in the tile that is next, which is waited for.
  __device__ bool next_is_dead() {
    shared.k_full[key.stage].wait(key.phase);
    return (shared.keys[key.stage].flags >> group & kDeadRows) != 0;
  }

  // Leaves out the tiles to come in which this consumer has no live pair; returns how many of
  // `tiles` are left.
  __device__ int32_t skip_dead(int32_t tiles) {
#pragma unroll 1
    for (; tiles > 0 && next_is_dead(); --tiles) skip_tile();
    return tiles;
  }

  // Scores of a tile become weights.
  __device__ void weigh(bool joined, Softmax& softmax) {
    float rescale[2];
    const KeySlot slot = shared.keys[key.stage];
    wait_turn();
    issue_scores();
    pass_turn();
    RowMask<kKeys> masks[2];
    load_masks(slot, masks);
    cute::warpgroup_wait<0>();
    fence_registers(scores);
    arrive(shared.k_empty[key.stage]);
    if constexpr (Config::kOverlaps) key.next();
    mask_scores(slot, masks);
    if (joined) begin(softmax);
    softmax.step(scores, params.scale_log2, rescale);
    rescale_out(rescale);
    pack_weights();
  }
  // The same while the weights of the tile before meet their values.
  __device__ void weigh_next(Softmax& softmax) {
    float rescale[2];
    const KeySlot slot = shared.keys[key.stage];
    RowMask<kKeys> masks[2];
    load_masks(slot, masks);
    wait_turn();
    issue_scores();
    shared.v_full[value.stage].wait(value.phase);
    issue_values();
    pass_turn();
    cute::warpgroup_wait<1>();
    fence_registers(scores);
    arrive(shared.k_empty[key.stage]);
    key.next();
    mask_scores(slot, masks);
    softmax.step(scores, params.scale_log2, rescale);
    cute::warpgroup_wait<0>();
    fence_registers(out);
    arrive(shared.v_empty[value.stage]);
    value.next();
    rescale_out(rescale);
    pack_weights();
  }
  __device__ void add_values() {
    Ring<Config::kStages>& at = values();
    shared.v_full[at.stage].wait(at.phase);
    issue_values();
    cute::warpgroup_wait<0>();
    fence_registers(out);
    arrive(shared.v_empty[at.stage]);
    at.next();
  }
  // The tile of values that is next: of the same keys, unless they are a tile ahead.
  __device__ Ring<Config::kStages>& values() {
    if constexpr (Config::kOverlaps) {
      return value;
    } else {
      return key;
    }
  }

  // An item with no rows for this warpgroup.
  __device__ void skip_item(int32_t tiles) {
    release_queries();
#pragma unroll 1
    for (int32_t t = 0; t < tiles; ++t) skip_tile();
  }
  __device__ void skip_tile() {
    wait_turn();
    pass_turn();
    shared.k_full[key.stage].wait(key.phase);
    arrive(shared.k_empty[key.stage]);
    if constexpr (Config::kOverlaps) key.next();
    Ring<Config::kStages>& at = values();
    shared.v_full[at.stage].wait(at.phase);
    arrive(shared.v_empty[at.stage]);
    at.next();
  }

  __device__ uint32_t covered_rows(int32_t rows, int32_t bits) const {
    return rows_in(params.space.work.row_bits, rows, bits, row());
  }
  __device__ int32_t position(int r, const WorkTile& tile) const {
    return owner_position(tile, params.space.work.offsets, row() + 8 * r);
  }
  __device__ int64_t row_index(const ItemSlot& item, int32_t position) const {
    return static_cast<int64_t>(item.batch * params.space.heads + item.head) * params.q_len +
           position;
  }

  // Starts from nothing, or from what the passes before left: their result as that of one key whose
  // score is their log-sum-exp, which begin() turns into softmax's terms.
  __device__ void start(const ItemSlot& item, Softmax& softmax) {
#pragma unroll
    for (int i = 0; i < Config::kVDim / 2; ++i) out[i] = 0;
    if (item.tile.earlier == kNone) return;
    const uint32_t earlier = covered_rows(item.tile.earlier, item.tile.earlier_bits);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int32_t at = position(r, item.tile);
      if (at < 0 || (earlier >> r & 1) == 0) continue;
      const int64_t index = row_index(item, at);
      const float* partial = params.partial + index * params.v_dim + lane() % 4 * 2;
#pragma unroll
      for (int j = 0; j < Config::kVDim / 8; ++j) {
        if (8 * j >= params.v_dim) continue;
        const float2 p = __ldcg(reinterpret_cast<const float2*>(partial + 8 * j));
        out[4 * j + 2 * r] = p.x;
        out[4 * j + 2 * r + 1] = p.y;
      }
      softmax.max[r] = __ldcg(params.lse + index);
    }
  }

  __device__ void store_partial(int r, int64_t row_index) {
    float* partial = params.partial + row_index * params.v_dim + lane() % 4 * 2;
#pragma unroll
    for (int j = 0; j < Config::kVDim / 8; ++j) {
      if (8 * j < params.v_dim) {
        __stcg(reinterpret_cast<float2*>(partial + 8 * j),
               make_float2(out[4 * j + 2 * r], out[4 * j + 2 * r + 1]));
      }
    }
  }
  // All lanes of a quad call it.
  __device__ void store_out(int r, const ItemSlot& item, int32_t position, bool store) {
    Element* target = static_cast<Element*>(params.out) + item.batch * params.out_batch_stride +
                      item.head * params.out_head_stride + position * params.out_row_stride;
    store_row(out, r, target, params.v_dim, store, lane());
  }

  __device__ void finish(const ItemSlot& item, const Softmax& softmax) {
    const uint32_t later = covered_rows(item.tile.later, item.tile.later_bits);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float total = quad_sum(softmax.sum[r]);
      const float inverse = total > 0 ? 1 / total : 0;
#pragma unroll
      for (int j = 0; j < Config::kVDim / 8; ++j) {
        out[4 * j + 2 * r] *= inverse;
        out[4 * j + 2 * r + 1] *= inverse;
      }
      const float lse2 = total > 0 ? softmax.max[r] * params.scale_log2 + log2f(total) : -INFINITY;
      const int32_t at = position(r, item.tile);
      const bool partial = later >> r & 1;
      if (at >= 0 && partial) store_partial(r, row_index(item, at));
      if (item.tile.later != kAll) store_out(r, item, at, at >= 0 && !partial);
      if (at >= 0 && lane() % 4 == 0) {
        __stcg(params.lse + row_index(item, at), partial ? lse2 : lse2 * 0.6931471805599453f);
      }
    }
  }

  __device__ void run() {
    if (group + 1 == Config::kConsumers) pass_turn();
    for (ItemPosition at;; at.next()) {
      wait_telling(shared.items.full[at.stage], at.phase);
      const ItemSlot& item = shared.items.slots[at.stage];
      if (item.live == 0) break;
      wait_telling(shared.q_full[query.stage], query.phase);
      if (group * 64 < item.tile.owner_count) {
        Softmax softmax;
        start(item, softmax);
        run_item(item.tile.tiles, item.tile.earlier != kNone, softmax);
        if constexpr (Config::kOverlaps) teller.tell(params.space.done, lane());
        finish(item, softmax);
      } else {
        skip_item(item.tile.tiles);
        teller.tell(params.space.done, lane());
      }
      if (item.tile.count > 0) {
        teller.untold = item.batch * params.space.heads + item.head;
        // With two blocks a multiprocessor there are no registers for it later.
        if constexpr (!Config::kOverlaps) teller.tell(params.space.done, lane());
      }
      arrive(shared.items.empty[at.stage]);
    }
    teller.tell(params.space.done, lane());
  }
  __device__ void wait_telling(Barrier& barrier, uint32_t phase) {
    teller.wait(barrier, phase, params.space.done, lane());
  }
};

// ---- kernel

template <typename Config>
__device__ void init_barriers(ForwardShared<Config>& shared) {
  constexpr int kConsumerWarps = 4 * Config::kConsumers;
  shared.items.init(kConsumerWarps + 1);
  for (int i = 0; i < Config::kQueryStages; ++i) {
    shared.q_full[i].init(1);
    shared.q_empty[i].init(kConsumerWarps);
  }
  for (int i = 0; i < Config::kStages; ++i) {
    shared.k_full[i].init(1);
    shared.v_full[i].init(1);
    shared.k_empty[i].init(kConsumerWarps);
    shared.v_empty[i].init(kConsumerWarps);
  }
  cutlass::arch::fence_barrier_init();
}

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, Config::kBlocks)
    attention_forward_kernel(const __grid_constant__ ForwardParams params) {
  extern __shared__ uint8_t raw[];
  __shared__ alignas(16) uint8_t shared_bytes[sizeof(ForwardShared<Config>)];
  auto& shared = reinterpret_cast<ForwardShared<Config>&>(shared_bytes);
  const uint32_t start = cute::cast_smem_ptr_to_uint(raw);
  const uint32_t q_smem = (start + 1023) / 1024 * 1024;
  if (threadIdx.x == 0) init_barriers<Config>(shared);
  // Rows of a tile that no load writes weigh 0, which must not meet a NaN.
  uint8_t* values = raw + (q_smem - start) + Config::kValuesAt;
  for (int i = threadIdx.x * 16; i < Config::kStages * Config::kValueBytes; i += 16 * blockDim.x) {
    *reinterpret_cast<uint4*>(values + i) = make_uint4(0, 0, 0, 0);
  }
  cutlass::arch::fence_view_async_shared();
  __syncthreads();

  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0);
  if (warpgroup == 0) {
    cutlass::arch::warpgroup_reg_dealloc<Config::kProducerRegisters>();
    if (threadIdx.x < 32) {
      Producer<Config>{params, shared, q_smem, static_cast<int>(threadIdx.x)}.run();
    } else if (threadIdx.x < 64) {
      find_items(params.space, shared.items, static_cast<int>(threadIdx.x % 32));
    }
  } else {
    cutlass::arch::warpgroup_reg_alloc<Config::kConsumerRegisters>();
    Consumer<Config> consumer{params, shared, q_smem, warpgroup - 1,
                              static_cast<int>(threadIdx.x % 128)};
    consumer.run();
  }
}

template <typename Element, int kQkDim, int kVDim, ForwardTiling kTiling>
void launch_forward(const ForwardParams& params, int grid, cudaStream_t stream) {
  using Config = ForwardConfig<Element, kQkDim, kVDim, kTiling>;
  constexpr int kSmemBytes = Config::kTileBytes + 1024;
  const auto kernel = attention_forward_kernel<Config>;
  LACE_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSmemBytes));
  kernel<<<grid, Config::kThreads, kSmemBytes, stream>>>(params);
  LACE_CUDA(cudaGetLastError());
}

}  // namespace lace::sm90
