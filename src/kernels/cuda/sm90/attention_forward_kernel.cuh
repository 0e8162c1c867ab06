#pragma once

#include <algorithm>

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/sm90/forward_params.h"
#include "kernels/cuda/sm90/hopper.cuh"
#include "kernels/cuda/sm90/load_set.cuh"

namespace lace::sm90 {

// One persistent launch does all passes of a plan. A block is a warpgroup that produces (one warp
// walks the plan and issues TMA loads) and two that consume (64 rows of owners each). Items, that
// is (tile of owners, head, batch), come from a counter in the order of work.h; queries of the next
// item are loaded while the last one is computed.
//
// Within a consumer q kᵀ of a tile is issued before p v of the tile before, whose products run
// while the softmax of the tile is computed; the two consumers issue their products in turn.
template <typename ElementType, int kQkDimValue, int kVDimValue>
struct ForwardConfig {
  using Element = ElementType;
  static constexpr int kQkDim = kQkDimValue, kVDim = kVDimValue;
  static constexpr int kConsumers = 2;
  static constexpr int kThreads = 128 * (1 + kConsumers);
  static constexpr int kQueryStages = 2;
  static constexpr int kStages = kQkDim + kVDim <= 128 ? 5 : kQkDim + kVDim <= 192 ? 3 : 2;
  static constexpr int kSliceBytes = kTileRows * 128;
  static constexpr int kQueryBytes = kQkDim / 64 * kSliceBytes;
  static constexpr int kKeyBytes = kQueryBytes;
  static constexpr int kValueBytes = kVDim / 64 * kSliceBytes;
  static constexpr int kTileBytes =
      kQueryStages * kQueryBytes + kStages * (kKeyBytes + kValueBytes);
};

// What consumers know of an item, and of a tile of keys.
struct ItemSlot {
  int32_t live;  // 0: no more items
  int32_t batch, head, tiles;
  int32_t first, stride, inner, offsets, owner_count;
  int32_t earlier, later, earlier_bits, later_bits, wait, count;
};
struct KeySlot {
  int32_t mask;   // row of mask_rows, −1: none
  int32_t limit;  // keys that count
};

template <typename Config>
struct ForwardShared {
  Barrier q_full[Config::kQueryStages], q_empty[Config::kQueryStages];
  Barrier k_full[Config::kStages], k_empty[Config::kStages];
  Barrier v_full[Config::kStages], v_empty[Config::kStages];
  ItemSlot items[Config::kQueryStages];
  KeySlot keys[Config::kStages];
};

// A position in a ring of stages.
template <int kStages>
struct Ring {
  int stage = 0;
  uint32_t phase = 0;
  __device__ void next() {
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
};

// Item `item` of a launch: a tile of owners, and for which head.
struct Item {
  const WorkTile* tile = nullptr;
  int32_t batch = 0, head = 0;
};

__device__ inline Item find_item(const ForwardParams& params, int32_t item) {
  const WorkTables& work = params.work;
  int g = 0;
  while (g + 1 < work.group_count && item >= work.groups[g + 1].item_begin * params.batch) ++g;
  const WorkGroup group = work.groups[g];
  const int32_t within = item - group.item_begin * params.batch;
  const int32_t heads = group.heads * params.batch;
  const int32_t section = within / (params.section * group.tiles);
  const int32_t head_begin = section * params.section;
  const int32_t section_heads = min(params.section, heads - head_begin);
  const int32_t rest = within - head_begin * group.tiles;
  const int32_t head = head_begin + rest % section_heads;
  return {&work.tiles[group.tile_begin + rest / section_heads], head / group.heads,
          work.heads[group.head_begin + head % group.heads]};
}

// ---- producer

template <typename Config>
struct Producer {
  const ForwardParams& params;
  ForwardShared<Config>& shared;
  uint32_t q_smem, k_smem, v_smem;  // addresses
  int lane;
  Ring<Config::kQueryStages> query{};
  Ring<Config::kStages> key{};

  // Called by all lanes of one warp.
  __device__ void run() {
    int32_t item = next_item();
    while (item < params.items) {
      const Item work = find_item(params, item);
      const WorkTile tile = *work.tile;
      shared.q_empty[query.stage].wait(query.phase ^ 1);
      if (lane == 0) write_slot(work, tile);
      const LoadTarget target{params.q, &shared.q_full[query.stage],
                              q_smem + query.stage * Config::kQueryBytes, work.head, work.batch};
      load_set<Config::kQkDim / 64>(target, tile.owners, params.work.offsets, 0, tile.owner_count,
                                    lane);
      query.next();
      item = next_item();
      const int32_t kv_head = work.head / params.heads_per_kv;
      for (int32_t r = tile.run_begin; r < tile.run_end; ++r) {
        load_run(params.work.runs[r], kv_head, work.batch);
      }
    }
    shared.q_empty[query.stage].wait(query.phase ^ 1);
    if (lane == 0) {
      shared.items[query.stage].live = 0;
      shared.q_full[query.stage].arrive();
    }
  }

  __device__ int32_t next_item() {
    int32_t item = 0;
    if (lane == 0) item = atomicAdd(params.next_item, 1);
    return __shfl_sync(~0u, item, 0);
  }

  __device__ void write_slot(const Item& work, const WorkTile& tile) {
    const WorkSet& set = tile.owners;
    shared.items[query.stage] = {
        1,          work.batch,        work.head,       tile.tiles,       set.first,
        set.stride, set.inner,         set.offsets,     tile.owner_count, tile.earlier,
        tile.later, tile.earlier_bits, tile.later_bits, tile.wait,        tile.count};
  }

  __device__ void load_run(const WorkRun& in, int32_t kv_head, int32_t batch) {
    const WorkRun run = in;
    int32_t cycle = 0;
    for (int32_t t = 0; t < run.tiles; ++t) {
      const int32_t shift = t * run.step;
      const int32_t limit = count_before(run.others, params.work.offsets, shift, params.k_len);
      const int32_t mask = run.mask_cycle == 0 ? -1 : params.work.mask_ids[run.mask_begin + cycle];
      if (++cycle >= run.mask_cycle) cycle = 0;
      shared.k_empty[key.stage].wait(key.phase ^ 1);
      if (lane == 0) shared.keys[key.stage] = {mask < 0 ? -1 : mask * kTileRows, limit};
      const LoadTarget k{params.k, &shared.k_full[key.stage],
                         k_smem + key.stage * Config::kKeyBytes, kv_head, batch};
      load_set<Config::kQkDim / 64>(k, run.others, params.work.offsets, shift, limit, lane);
      shared.v_empty[key.stage].wait(key.phase ^ 1);
      const LoadTarget v{params.v, &shared.v_full[key.stage],
                         v_smem + key.stage * Config::kValueBytes, kv_head, batch};
      load_set<Config::kVDim / 64>(v, run.others, params.work.offsets, shift, limit, lane);
      key.next();
    }
  }
};

// ---- consumers

// Bits of the keys that a row sees: 4 words for 128 keys.
struct RowMask {
  uint32_t words[4];
};

__device__ inline RowMask row_mask(const uint32_t* mask_rows, const KeySlot& slot, int row) {
  RowMask mask;
  uint4 words = make_uint4(~0u, ~0u, ~0u, ~0u);
  if (slot.mask >= 0) {
    words = __ldg(reinterpret_cast<const uint4*>(mask_rows) + slot.mask + row);
  }
  mask.words[0] = words.x, mask.words[1] = words.y;
  mask.words[2] = words.z, mask.words[3] = words.w;
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const int count = slot.limit - 32 * w;
    if (count < 32) mask.words[w] &= count <= 0 ? 0u : (1u << count) - 1;
  }
  return mask;
}

// The online softmax of the two rows of a thread, in base 2.
struct Softmax {
  float max[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};  // of this thread's columns

  // s: scores of a tile, then their weights. Returns in `rescale` what weighs the tiles before.
  template <int kCount>
  __device__ void step(float (&s)[kCount], float scale, float (&rescale)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float high = fmaxf(s[2 * r], s[2 * r + 1]);
#pragma unroll
      for (int j = 1; j < kCount / 4; ++j) {
        high = fmaxf(high, fmaxf(s[4 * j + 2 * r], s[4 * j + 2 * r + 1]));
      }
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
  static constexpr int kKeys = kTileRows;
  const ForwardParams& params;
  ForwardShared<Config>& shared;
  uint32_t q_smem, k_smem, v_smem;
  int group;   // 0 or 1
  int thread;  // in the warpgroup
  Ring<Config::kQueryStages> query{};
  Ring<Config::kStages> key{}, value{};
  float scores[kKeys / 2];
  uint32_t weights[kKeys / 4];
  float out[Config::kVDim / 2];

  __device__ int lane() const { return thread % 32; }
  // The first of this thread's two rows of the tile; the other is 8 further on.
  __device__ int row() const { return group * 64 + thread / 32 * 16 + lane() / 4; }

  __device__ void arrive(Barrier& barrier) {
    __syncwarp();
    if (lane() == 0) barrier.arrive();
  }
  // The two consumers issue their products in turn.
  __device__ void wait_turn() { cutlass::arch::NamedBarrier::sync(256, kFirstTurn + group); }
  __device__ void give_turn() { cutlass::arch::NamedBarrier::arrive(256, kFirstTurn + 1 - group); }
  static constexpr uint32_t kFirstTurn = 2;   // past the barriers that CUTLASS may reserve:
  static constexpr uint32_t kFirstGroup = 4;  // NamedBarrier adds its own offset

  __device__ void issue_scores() {
    const uint32_t q = q_smem + query.stage * Config::kQueryBytes + group * 64 * 128;
    const uint32_t k = k_smem + key.stage * Config::kKeyBytes;
    fence_registers(scores);
    cute::warpgroup_arrive();
    multiply_transposed<Element, kKeys, Config::kQkDim>(
        scores, tile_descriptor(q, Config::kSliceBytes), Config::kSliceBytes,
        tile_descriptor(k, Config::kSliceBytes), Config::kSliceBytes);
    cute::warpgroup_commit_batch();
  }
  __device__ void issue_values() {
    const uint32_t v = v_smem + value.stage * Config::kValueBytes;
    fence_registers(out);
    cute::warpgroup_arrive();
    multiply_add<Element, Config::kVDim, kKeys>(out, weights,
                                                tile_descriptor(v, Config::kSliceBytes));
    cute::warpgroup_commit_batch();
  }

  __device__ void apply_mask(const RowMask& first, const RowMask& second) {
    const int column = lane() % 4 * 2;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const uint32_t a = first.words[w] >> column;
      const uint32_t b = second.words[w] >> column;
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
  __device__ void mask_scores(const KeySlot& slot) {
    if (slot.mask < 0 && slot.limit >= kKeys) return;
    apply_mask(row_mask(params.work.mask_rows, slot, row()),
               row_mask(params.work.mask_rows, slot, row() + 8));
  }

  __device__ void pack_weights() {
#pragma unroll
    for (int i = 0; i < kKeys / 4; ++i) {
      weights[i] = pack<Element>(scores[2 * i], scores[2 * i + 1]);
    }
  }

  // All tiles of keys of one item.
  __device__ void run_item(int32_t tiles, Softmax& softmax) {
    float rescale[2];
#pragma unroll
    for (int i = 0; i < Config::kVDim / 2; ++i) out[i] = 0;
    if (tiles == 0) {
      arrive(shared.q_empty[query.stage]);
      return;
    }
    shared.k_full[key.stage].wait(key.phase);
    KeySlot slot = shared.keys[key.stage];
    issue_scores();
    cute::warpgroup_wait<0>();
    fence_registers(scores);
    arrive(shared.k_empty[key.stage]);
    key.next();
    if (tiles == 1) arrive(shared.q_empty[query.stage]);
    mask_scores(slot);
    softmax.step(scores, params.scale_log2, rescale);
    pack_weights();
    for (int32_t t = 1; t < tiles; ++t) {
      shared.k_full[key.stage].wait(key.phase);
      slot = shared.keys[key.stage];
      wait_turn();
      issue_scores();
      shared.v_full[value.stage].wait(value.phase);
      issue_values();
      give_turn();
      cute::warpgroup_wait<1>();
      fence_registers(scores);
      arrive(shared.k_empty[key.stage]);
      key.next();
      if (t + 1 == tiles) arrive(shared.q_empty[query.stage]);
      mask_scores(slot);
      softmax.step(scores, params.scale_log2, rescale);
      cute::warpgroup_wait<0>();
      fence_registers(out);
      arrive(shared.v_empty[value.stage]);
      value.next();
#pragma unroll
      for (int i = 0; i < Config::kVDim / 2; ++i) out[i] *= rescale[i / 2 % 2];
      pack_weights();
    }
    shared.v_full[value.stage].wait(value.phase);
    issue_values();
    cute::warpgroup_wait<0>();
    fence_registers(out);
    arrive(shared.v_empty[value.stage]);
    value.next();
  }

  // Rows that another pass covers: bit r for the thread's row r.
  __device__ uint32_t rows_in(int32_t rows, int32_t bits) const {
    if (rows != kSome) return rows == kAll ? 3 : 0;
    const uint32_t* words = params.work.row_bits + bits;
    const uint32_t first = words[row() / 32] >> (row() % 32) & 1;
    return first | (words[(row() + 8) / 32] >> ((row() + 8) % 32) & 1) << 1;
  }

  // Waits until the passes before have left their results of this head.
  __device__ void wait_for_passes(const ItemSlot& item) {
    const int32_t* done = params.done + item.batch * params.heads + item.head;
    if (thread == 0) {
      while (load_acquire(done) < item.wait * Config::kConsumers) __nanosleep(64);
    }
    cutlass::arch::NamedBarrier::sync(128, kFirstGroup + group);
  }
  __device__ void tell_passes(const ItemSlot& item) {
    __threadfence();
    cutlass::arch::NamedBarrier::sync(128, kFirstGroup + group);
    if (thread == 0) add_release(params.done + item.batch * params.heads + item.head, 1);
  }

  // Joins with what the passes before left of a row: r of this thread.
  __device__ void join(int r, int64_t row_index, float& lse2) {
    const float before = __ldcg(params.lse + row_index) * 1.4426950408889634f;
    if (before == -INFINITY) return;
    const float high = fmaxf(before, lse2);
    const float both = high + log2f(exp2f(before - high) + exp2f(lse2 - high));
    const float weight = exp2f(lse2 - both), weight_before = exp2f(before - both);
    const float* partial = params.partial + row_index * params.v_dim;
    const int column = lane() % 4 * 2;
#pragma unroll
    for (int j = 0; j < Config::kVDim / 8; ++j) {
      float* o = &out[4 * j + 2 * r];
      float2 p = make_float2(0, 0);
      if (8 * j < params.v_dim) {
        p = __ldcg(reinterpret_cast<const float2*>(partial + 8 * j + column));
      }
      o[0] = o[0] * weight + p.x * weight_before;
      o[1] = o[1] * weight + p.y * weight_before;
    }
    lse2 = both;
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
  __device__ void store_row(int r, const ItemSlot& item, int32_t position, bool store) {
    Element* target = static_cast<Element*>(params.out) + item.batch * params.out_batch_stride +
                      item.head * params.out_head_stride + position * params.out_row_stride;
#pragma unroll
    for (int j = 0; j < Config::kVDim / 8; j += 4) {
      uint32_t v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        v[i] = pack<Element>(out[4 * (j + i) + 2 * r], out[4 * (j + i) + 2 * r + 1]);
      }
      quad_transpose(v, lane());
      const int column = (j + lane() % 4) * 8;
      if (store && column < params.v_dim) {
        *reinterpret_cast<uint4*>(target + column) = make_uint4(v[0], v[1], v[2], v[3]);
      }
    }
  }

  __device__ void finish(const ItemSlot& item, const Softmax& softmax) {
    const uint32_t earlier = rows_in(item.earlier, item.earlier_bits);
    const uint32_t later = rows_in(item.later, item.later_bits);
    if (item.wait > 0) wait_for_passes(item);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float total = quad_sum(softmax.sum[r]);
      const float inverse = total > 0 ? 1 / total : 0;
#pragma unroll
      for (int j = 0; j < Config::kVDim / 8; ++j) {
        out[4 * j + 2 * r] *= inverse;
        out[4 * j + 2 * r + 1] *= inverse;
      }
      float lse2 = total > 0 ? softmax.max[r] * params.scale_log2 + log2f(total) : -INFINITY;
      const int e = row() + 8 * r;
      const bool live = e < item.owner_count;
      int32_t position = 0;
      if (live) {
        const int32_t o = e / item.inner;
        const int32_t offset =
            item.offsets >= 0 ? params.work.offsets[item.offsets + o] : o * item.stride;
        position = item.first + offset + (e - o * item.inner);
      }
      const int64_t row_index =
          static_cast<int64_t>(item.batch * params.heads + item.head) * params.q_len + position;
      if (live && (earlier >> r & 1)) join(r, row_index, lse2);
      const bool partial = later >> r & 1;
      if (live && partial) store_partial(r, row_index);
      store_row(r, item, position, live && !partial);
      if (live && lane() % 4 == 0) {
        __stcg(params.lse + row_index, lse2 * 0.6931471805599453f);
      }
    }
    if (item.count > 0) tell_passes(item);
  }

  __device__ void run() {
    if (group == 1) give_turn();
    while (true) {
      shared.q_full[query.stage].wait(query.phase);
      const ItemSlot item = shared.items[query.stage];
      if (item.live == 0) break;
      Softmax softmax;
      run_item(item.tiles, softmax);
      query.next();
      finish(item, softmax);
    }
    if (group == 0) wait_turn();  // what group 1 gave last
  }
};

// ---- kernel

template <typename Config>
__device__ void init_barriers(ForwardShared<Config>& shared) {
  constexpr int kConsumerWarps = 4 * Config::kConsumers;
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
__global__ void __launch_bounds__(Config::kThreads, 1)
    attention_forward_kernel(const __grid_constant__ ForwardParams params) {
  extern __shared__ uint8_t raw[];
  __shared__ alignas(16) uint8_t shared_bytes[sizeof(ForwardShared<Config>)];
  auto& shared = reinterpret_cast<ForwardShared<Config>&>(shared_bytes);
  const uint32_t base = (cute::cast_smem_ptr_to_uint(raw) + 1023) / 1024 * 1024;
  const uint32_t q_smem = base;
  const uint32_t k_smem = q_smem + Config::kQueryStages * Config::kQueryBytes;
  const uint32_t v_smem = k_smem + Config::kStages * Config::kKeyBytes;
  if (threadIdx.x == 0) init_barriers<Config>(shared);
  // Rows of a tile that no load writes weigh 0, which must not meet a NaN.
  uint8_t* values = raw + (v_smem - cute::cast_smem_ptr_to_uint(raw));
  for (int i = threadIdx.x * 16; i < Config::kStages * Config::kValueBytes; i += 16 * blockDim.x) {
    *reinterpret_cast<uint4*>(values + i) = make_uint4(0, 0, 0, 0);
  }
  cutlass::arch::fence_view_async_shared();
  __syncthreads();

  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0);
  if (warpgroup == 0) {
    cutlass::arch::warpgroup_reg_dealloc<40>();
    if (threadIdx.x < 32) {
      Producer<Config> producer{params, shared, q_smem,
                                k_smem, v_smem, static_cast<int>(threadIdx.x)};
      producer.run();
    }
  } else {
    cutlass::arch::warpgroup_reg_alloc<232>();
    Consumer<Config> consumer{
        params, shared, q_smem, k_smem, v_smem, warpgroup - 1, static_cast<int>(threadIdx.x % 128)};
    consumer.run();
  }
}

template <typename Element, int kQkDim, int kVDim>
void launch_forward(const ForwardParams& params, int grid, cudaStream_t stream) {
  using Config = ForwardConfig<Element, kQkDim, kVDim>;
  constexpr int kSmemBytes = Config::kTileBytes + 1024;
  const auto kernel = attention_forward_kernel<Config>;
  LACE_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSmemBytes));
  kernel<<<grid, Config::kThreads, kSmemBytes, stream>>>(params);
  LACE_CUDA(cudaGetLastError());
}

}  // namespace lace::sm90
