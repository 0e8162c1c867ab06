#pragma once

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/sm90/forward_loaders.cuh"
#include "kernels/cuda/sm90/sums.cuh"

namespace lace::sm90 {

// One persistent launch does all passes of a plan. A block is a warpgroup that produces and two or
// three that consume (64 rows of owners each). Of those that produce, one warp finds items, that is
// (tile of owners, head, batch), in the order of work.h, and loads their queries; one walks their
// runs and loads keys and values; one copies what passes before left; one tells other blocks of
// what is done. The queries and first keys of the next items are loaded while one is computed.
//
// Within a consumer q kᵀ of a tile is issued before p v of the tile before, whose products run
// while the softmax of the tile is computed. Tiles in which a consumer has no live pair it leaves
// out. After the tiles of keys comes what passes before left of the owners: that too passes through
// stages of keys.

// ---- consumers

// The online softmax of the two rows of a thread, in base 2.
struct Softmax {
  float max[2] = {-INFINITY, -INFINITY};  // of scaled scores
  float sum[2] = {0, 0};                  // of this thread's columns
  float base[2];                          // max, or 0 for a row without keys so far
  float rescale[2];                       // what weighs the tiles before the one seen last

  // s: scores of a tile.
  template <int kCount>
  __device__ void see(const float (&s)[kCount], float scale) {
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
      high = fmaxf(quad_max(high) * scale, max[r]);
      base[r] = high == -INFINITY ? 0.f : high;
      rescale[r] = exp2_approx(max[r] - base[r]);
      max[r] = high;
    }
  }
  // The scores of that tile become weights.
  template <int kCount>
  __device__ void weigh(float (&s)[kCount], float scale) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float total = 0;
#pragma unroll
      for (int j = 0; j < kCount / 4; ++j) {
        float& a = s[4 * j + 2 * r];
        float& b = s[4 * j + 2 * r + 1];
        a = exp2_approx(a * scale - base[r]);
        b = exp2_approx(b * scale - base[r]);
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
  static constexpr int kStoreBarrier = 1 + Config::kConsumers;  // and those of the next groups
  const ForwardParams& params;
  ForwardShared<Config>& shared;
  uint32_t q_smem;  // keys and values lie behind the queries
  int group;        // of its warpgroup among the consumers
  int thread;       // in the warpgroup
  Ring<Config::kQueryStages> query{};
  Ring<Config::kStages> key{}, value{};
  KeySlot next{};        // of the tile that is next,
  bool is_next = false;  // if it has been seen to be there
  float scores[kKeys / 2];
  uint32_t weights[kKeys / 4];
  float out[Config::kVDim / 2];

  __device__ int lane() const { return thread % 32; }
  // The first of this thread's two rows of the tile; the other is 8 further on.
  __device__ int row() const { return first_row(group, thread); }

  __device__ void arrive(Barrier& barrier) { arrive_warp(barrier, lane()); }
  __device__ void release_keys() {
    shared.k_empty[key.stage()].arrive();
    key.next();
    is_next = false;
  }

  // Descriptors of tiles, from those of the first stage.
  __device__ uint64_t queries() const {
    return advance(tile_descriptor(q_smem, Config::kQuerySliceBytes),
                   query.stage() * Config::kQueryBytes + group * 64 * 128);
  }
  __device__ uint64_t keys() const {
    return advance(tile_descriptor(q_smem + Config::kKeysAt, Config::kSliceBytes),
                   key.stage() * Config::kKeyBytes);
  }
  __device__ uint64_t values() const {
    return advance(tile_descriptor(q_smem + Config::kValuesAt, Config::kSliceBytes),
                   value.stage() * Config::kValueBytes);
  }
  __device__ void issue_scores() {
    fence_registers(scores);
    cute::warpgroup_arrive();
    multiply_transposed<Element, kKeys, Config::kQkDim>(scores, queries(), Config::kQuerySliceBytes,
                                                        keys(), Config::kSliceBytes);
    cute::warpgroup_commit_batch();
  }
  __device__ void issue_values() {
    fence_registers(out);
    cute::warpgroup_arrive();
    multiply_add<Element, Config::kVDim, kKeys>(out, weights, values());
    cute::warpgroup_commit_batch();
  }

  // Loads what cap_and_mask_scores() applies.
  __device__ void load_masks(const KeySlot& slot, RowMask<kKeys> (&masks)[2]) {
    if (!slot.masks(group)) {
      masks[0].fill(~0u);
      masks[1].fill(~0u);
      return;
    }
    const int32_t first = mask_row(slot.mask, Config::kOwners) + row();
    masks[0].load(params.queue.work.mask_rows, first);
    masks[1].load(params.queue.work.mask_rows, first + 8);
  }
  // The cap before the masks: tanh would make −1 of their −∞. One branch skips both.
  __device__ void cap_and_mask_scores(const KeySlot& slot, RowMask<kKeys> (&masks)[2]) {
    const bool capped = Config::kCaps && params.cap_scale != 0;
    const bool masked = slot.masks(group) || slot.range < kKeys;
    if (!capped && !masked) return;
    if constexpr (Config::kCaps) {
      if (capped) cap_scores(scores, params.cap_scale);
    }
    if (!masked) return;
    if (slot.range < kKeys) {
      masks[0].cut(slot.range);
      masks[1].cut(slot.range);
    }
    apply_masks(scores, masks, lane());
  }

  __device__ void pack_weights() {
#pragma unroll
    for (int i = 0; i < kKeys / 4; ++i) {
      weights[i] = pack<Element>(scores[2 * i], scores[2 * i + 1]);
    }
  }

  __device__ void rescale_out(const Softmax& softmax) {
#pragma unroll
    for (int i = 0; i < Config::kVDim / 2; ++i) out[i] *= softmax.rescale[i / 2 % 2];
  }
  __device__ void release_queries() {
    arrive(shared.q_empty[query.stage()]);
    query.next();
  }

  // Where a block is alone on its multiprocessor, consumers issue the products of a tile in turn,
  // so that the softmax of one runs beside the products of the others.
  __device__ void wait_turn() const {
    if constexpr (Config::kOverlaps) cutlass::arch::NamedBarrier::sync(2 * 128, 1 + group);
  }
  __device__ void pass_turn() const {
    const int next = group + 1 == Config::kConsumers ? 0 : group + 1;
    if constexpr (Config::kOverlaps) cutlass::arch::NamedBarrier::arrive(2 * 128, 1 + next);
  }

  // All tiles of keys of one item.
  __device__ void run_item(int32_t tiles, Softmax& softmax) {
#pragma unroll
    for (int i = 0; i < Config::kVDim / 2; ++i) out[i] = 0;
    int32_t left = skip_dead(tiles);
    while (left > 0) {
      weigh(softmax);
      --left;
      if constexpr (Config::kOverlaps) {
        for (; left > 0 && !next_is_dead(); --left) weigh_next(softmax);
      }
      add_values();
      left = skip_dead(left);
    }
  }
  // Whether this consumer has no live pair in the tile that is next, which is waited for.
  __device__ bool next_is_dead() {
    if (!is_next) {
      shared.k_full[key.stage()].wait(key.phase());
      next = shared.keys[key.stage()];
      is_next = true;
    }
    return next.dead(group);
  }
  // The same ahead of time, if the tile is there: nobody waits then.
  __device__ void look_ahead() {
    is_next = shared.k_full[key.stage()].test_wait(key.phase());
    if (is_next) next = shared.keys[key.stage()];
  }

  // Leaves out the tiles to come in which this consumer has no live pair; returns how many of
  // `tiles` are left.
  __device__ int32_t skip_dead(int32_t tiles) {
#pragma unroll 1
    for (; tiles > 0 && next_is_dead(); --tiles) skip_tile();
    return tiles;
  }

  // Scores of the tile that is next become weights.
  __device__ void weigh(Softmax& softmax) {
    const KeySlot slot = next;
    wait_turn();
    issue_scores();
    pass_turn();
    RowMask<kKeys> masks[2];
    load_masks(slot, masks);
    cute::warpgroup_wait<0>();
    fence_registers(scores);
    release_keys();
    cap_and_mask_scores(slot, masks);
    softmax.see(scores, params.scale_log2);
    softmax.weigh(scores, params.scale_log2);
    rescale_out(softmax);
    pack_weights();
  }
  // The same while the weights of the tile before meet their values. The maxima are pinned: they
  // run beside that product. The exponentials stand behind the wait for it, so that ptxas can put
  // the multiplications by `rescale` and the conversions between them.
  __device__ void weigh_next(Softmax& softmax) {
    const KeySlot slot = next;
    RowMask<kKeys> masks[2];
    load_masks(slot, masks);
    Barrier& values_there = shared.v_full[value.stage()];
    const bool are_there = values_there.test_wait(value.phase());
    wait_turn();
    issue_scores();
    if (!are_there) values_there.wait(value.phase());
    issue_values();
    pass_turn();
    cute::warpgroup_wait<1>();
    fence_registers(scores);
    release_keys();
    cap_and_mask_scores(slot, masks);
    if (pin(params.scale_log2)) softmax.see(scores, params.scale_log2);
    cute::warpgroup_wait<0>();
    fence_registers(out);
    arrive(shared.v_empty[value.stage()]);
    value.next();
    look_ahead();
    softmax.weigh(scores, params.scale_log2);
    rescale_out(softmax);
    pack_weights();
  }
  __device__ void add_values() {
    // Not wait(), with which ptxas 13.0 finds too few registers for kShort and serialises products.
    while (!shared.v_full[value.stage()].test_wait(value.phase())) {
    }
    issue_values();
    cute::warpgroup_wait<0>();
    fence_registers(out);
    arrive(shared.v_empty[value.stage()]);
    value.next();
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
    shared.k_full[key.stage()].wait(key.phase());
    release_keys();
    shared.v_full[value.stage()].wait(value.phase());
    arrive(shared.v_empty[value.stage()]);
    value.next();
  }

  __device__ uint32_t covered_rows(int32_t rows, int32_t bits) const {
    return rows_in(params.queue.work.row_bits, rows, bits, row());
  }
  __device__ int64_t row_index(const ItemSlot& item, int32_t position) const {
    return static_cast<int64_t>(item.batch * params.queue.heads + item.head) * params.q_len +
           position;
  }

  // Joins with what passes before left, as with the result of one key whose score is their
  // log-sum-exp.
  __device__ void join(const WorkTile& tile, Softmax& softmax) {
    const int stage =
        (64 * group + thread / 32 * 16) / Config::kPartialRows;  // of this warp's rows
#pragma unroll 1
    for (int s = 0; s < Config::kPartialStages; ++s) {
      shared.k_full[key.stage()].wait(key.phase());
      if (s == stage) add_partial(covered_rows(tile.earlier, tile.earlier_bits), softmax);
      release_keys();
    }
  }
  __device__ void add_partial(uint32_t covered, Softmax& softmax) {
    const int first = row() % Config::kPartialRows;  // and 8 further on
    const uint32_t source = q_smem + Config::kKeysAt + key.stage() * Config::kKeyBytes +
                            first * Config::kPartialRowBytes + lane() % 4 * 16;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if ((covered >> r & 1) == 0) continue;
      const float lse = shared.partial_lse[key.stage()][first + 8 * r];
      const float high = fmaxf(softmax.max[r], lse);
      const float base = high == -INFINITY ? 0.f : high;
      const float a = exp2_approx(softmax.max[r] - base), b = exp2_approx(lse - base);
      softmax.max[r] = high;
      softmax.sum[r] = softmax.sum[r] * a + (lane() % 4 == 0 ? b : 0.f);
#pragma unroll
      for (int m = 0; m < Config::kVDim / 16; ++m) {
        const float4 x = load_shared_4(source + 8 * r * Config::kPartialRowBytes + 64 * m);
        float* o = &out[8 * m + 2 * r];
        o[0] = o[0] * a + x.x * b, o[1] = o[1] * a + x.y * b;
        o[4] = o[4] * a + x.z * b, o[5] = o[5] * a + x.w * b;
      }
    }
  }

  // Adds a logit without a value to a row that is complete; returns what its out weighs then.
  static __device__ float join_sink(float sink, float& max, float& total) {
    sink *= 1.4426950408889634f;
    const float high = fmaxf(max, sink);
    if (high == -INFINITY) return 0;
    const float weight = exp2_approx(max - high);
    total = total * weight + exp2_approx(sink - high);
    max = high;
    return weight / total;
  }

  // Rows that no later pass joins, through the rows of the queries, whose products are done: so a
  // warp writes whole rows.
  __device__ void store_out(const ItemSlot& item, const OwnerRows& owners) {
    const int first = group * 64 + thread / 32 * 16;  // of this warp's rows
    const uint32_t rows = q_smem + query.stage() * Config::kQueryBytes + first * 128;
    cutlass::arch::NamedBarrier::sync(128, kStoreBarrier + group);
    Element* head = static_cast<Element*>(params.out) + item.batch * params.out_batch_stride +
                    item.head * params.out_head_stride;
#pragma unroll
    for (int s = 0; s < Config::kVDim / 64; ++s) {
      if (s > 0) __syncwarp();
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        const float* o = &out[32 * s + 8 * m];
        const uint32_t v[4] = {pack<Element>(o[0], o[1]), pack<Element>(o[2], o[3]),
                               pack<Element>(o[4], o[5]), pack<Element>(o[6], o[7])};
        const int row = lane() % 16, chunk = 2 * m + lane() / 16;
        store_matrices(rows + row * 128 + ((chunk ^ (row % 8)) * 16), v);
      }
      __syncwarp();
      const int column = 64 * s + lane() % 8 * 8;
      const auto load = [&](int i) {  // 16 bytes of each fourth row
        const int row = lane() / 8 + 4 * i;
        return load_shared_4(rows + row * 128 + ((lane() % 8 ^ (row % 8)) * 16));
      };
      const int e = first + lane() / 8;
      if (owners.even && item.tile.later == kNone) {
        float4 x[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) x[i] = load(i);
        if (s + 1 == Config::kVDim / 64) release_rows();
        const int64_t step = 4 * owners.step * params.out_row_stride;
        Element* target = head + (owners.first + e * owners.step) * params.out_row_stride + column;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (in_range(owners.range, e + 4 * i) && column < params.v_dim) {
            store_16_bytes(target + i * step, x[i]);
          }
        }
      } else {
#pragma unroll 1
        for (int i = 0; i < 4; ++i) {
          const float4 x = load(i);
          const int32_t at = owners.position(params.queue.work.offsets, e + 4 * i);
          const bool later =
              row_in(params.queue.work.row_bits, item.tile.later, item.tile.later_bits, e + 4 * i);
          if (at >= 0 && !later && column < params.v_dim) {
            store_16_bytes(head + at * params.out_row_stride + column, x);
          }
        }
        if (s + 1 == Config::kVDim / 64) release_rows();
      }
    }
  }
  // The queries whose rows this warp wrote to.
  __device__ void release_rows() {
    cutlass::arch::fence_view_async_shared();  // others are loaded there
    release_queries();
  }

  __device__ void finish(const ItemSlot& item, Softmax& softmax) {
    const OwnerRows owners(item.tile);
    const uint32_t later = covered_rows(item.tile.later, item.tile.later_bits);
    float total[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) total[r] = quad_sum(softmax.sum[r]);
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) inverse[r] = total[r] > 0 ? 1 / total[r] : 0;
    if (params.sinks != nullptr) {
      const float sink = __ldg(params.sinks + item.head);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        if ((later >> r & 1) == 0) inverse[r] = join_sink(sink, softmax.max[r], total[r]);
      }
    }
#pragma unroll
    for (int i = 0; i < Config::kVDim / 2; ++i) out[i] *= inverse[i / 2 % 2];
    if (item.tile.later != kAll) {
      store_out(item, owners);
    } else {
      release_queries();
    }

    const int64_t first = row_index(item, 0);
    if (item.tile.later != kNone) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int32_t at = owners.position(params.queue.work.offsets, row() + 8 * r);
        if (at < 0 || (later >> r & 1) == 0) continue;
        store_sums(params.partial + (first + at) * Config::kVDim, out, r, lane());
      }
    }
    // Of a quad, one lane writes the log-sum-exp of one row, one of the other.
    const int r = lane() & 1;
    const float sum = r == 0 ? total[0] : total[1], max = r == 0 ? softmax.max[0] : softmax.max[1];
    const float lse2 = sum > 0 ? max + log2f(sum) : -INFINITY;
    const int32_t at = owners.position(params.queue.work.offsets, row() + 8 * r);
    if (at >= 0 && (lane() & 2) == 0) {
      __stcg(params.lse + first + at, later >> r & 1 ? lse2 : lse2 * 0.6931471805599453f);
    }
  }

  __device__ void run() {
    if (group + 1 == Config::kConsumers) pass_turn();
    for (ItemPosition at;; at.next()) {
      shared.items.full[at.stage()].wait(at.phase());
      const ItemSlot& item = shared.items.slots[at.stage()];
      if (item.live == 0) return;
      shared.q_full[query.stage()].wait(query.phase());
      const bool has_rows = group * 64 < range_end(item.tile.owner_count);
      Softmax softmax;
      if (has_rows) {
        run_item(item.tile.tiles, softmax);
      } else {
        skip_item(item.tile.tiles);
      }
      if (item.tile.earlier != kNone) join(item.tile, softmax);
      if (has_rows) finish(item, softmax);
      shared.items.stored[at.stage()].arrive();
    }
  }
};

// ---- kernel

template <typename Config>
__device__ void init_barriers(ForwardShared<Config>& shared, bool joins) {
  constexpr int kConsumerWarps = 4 * Config::kConsumers;
  shared.items.init(3, kConsumerWarps);
  for (int i = 0; i < Config::kQueryStages; ++i) {
    shared.q_full[i].init(1);
    shared.q_empty[i].init(kConsumerWarps);
  }
  for (int i = 0; i < Config::kStages; ++i) {
    shared.k_full[i].init(32);
    shared.v_full[i].init(1);
    shared.k_empty[i].init(32 * (kConsumerWarps + (joins ? 1 : 0)));  // and who follows
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
  if (threadIdx.x == 0) init_barriers<Config>(shared, params.queue.joins);
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
    const int lane = threadIdx.x % 32;
    if (threadIdx.x < 64) {
      if (params.queue.has_sequences()) {
        load_items<Config, true>(params, shared, q_smem, lane);
      } else {
        load_items<Config, false>(params, shared, q_smem, lane);
      }
    } else if (threadIdx.x < 96) {
      PartialLoader<Config>{params, shared, q_smem, lane}.run();
    } else {
      tell_passes(params.queue, shared.items, lane);
    }
  } else {
    cutlass::arch::warpgroup_reg_alloc<Config::kConsumerRegisters>();
    Consumer<Config> consumer{params, shared, uniform(q_smem), warpgroup - 1,
                              static_cast<int>(threadIdx.x % 128)};
    consumer.run();
  }
}

template <typename Config>
void launch_forward(const ForwardParams& params, int grid, cudaStream_t stream) {
  constexpr int kSmemBytes = Config::kTileBytes + 1024;
  const auto kernel = attention_forward_kernel<Config>;
  LACE_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSmemBytes));
  kernel<<<grid, Config::kThreads, kSmemBytes, stream>>>(params);
  LACE_CUDA(cudaGetLastError());
}

template <typename Element, int kQkDim, int kVDim, ForwardTiling kTiling>
ForwardKernel make_forward_kernel() {
  using Config = ForwardConfig<Element, kQkDim, kVDim, kTiling>;
  return {kTiling, Config::kBlocks, kQkDim, kVDim, launch_forward<Config>};
}

}  // namespace lace::sm90
