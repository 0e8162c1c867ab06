#pragma once

#include "kernels/cuda/sm90/backward_loaders.cuh"
#include "kernels/cuda/sm90/sums.cuh"

namespace lace::sm90 {

// The warpgroups of a block that compute (attention_backward_kernel.cuh).

template <typename Config>
struct BackwardConsumer {
  using Element = typename Config::Element;
  static constexpr int kOthers = Config::kOthers, kDim = Config::kDim;
  static constexpr bool kSplitsQueries = Config::kSplitsQueries;
  // Whether dq waits in ds for the copy that adds it.
  static constexpr bool kAddsFromDs = Config::kAddsDq && kSplitsQueries;
  static constexpr int kBarrierThreads = 128 * Config::kConsumers;
  const BackwardParams& params;
  BackwardShared<Config>& shared;
  const BackwardTiles<Config>& tiles;
  int group;   // of its warpgroup among the consumers
  int thread;  // in the warpgroup
  Ring<Config::kOwnerStages> owner{};
  Ring<Config::kStages> other{};
  Ring<Config::kSecondStages> second{};  // kDeep
  bool ds_is_new = true;                 // no tile was in it yet
  float s[kOthers / 2], dw[kOthers / 2];
  uint32_t weights[kOthers / 4], ds[kOthers / 4];
  float d0[Config::kHasD0 ? kDim / 2 : 1], d1[Config::kHasD1 ? kDim / 2 : 1];
  float dq[Config::kAddsDq ? 32 : 1];
  RowStatistics own[2];  // where owners are queries, of this thread's rows

  __device__ int lane() const { return thread % 32; }
  __device__ int row() const { return first_row(group, thread); }

  // Tiles of others.
  __device__ uint32_t y0() const { return tiles.y0 + other.stage() * Config::kOtherBytes; }
  __device__ uint32_t y1() const {
    const int stage = Config::kDeep ? second.stage() : other.stage();
    return tiles.y1 + stage * Config::kOtherBytes;
  }

  // product = x yᵀ
  __device__ void issue_product(float (&product)[kOthers / 2], uint32_t x, uint32_t y) {
    x += owner.stage() * Config::kOwnerBytes + group * 64 * 128;
    fence_registers(product);
    cute::warpgroup_arrive();
    multiply_transposed<Element, kOthers, kDim>(
        product, tile_descriptor(x, Config::kOwnerSliceBytes), Config::kOwnerSliceBytes,
        tile_descriptor(y, Config::kOtherSliceBytes), Config::kOtherSliceBytes);
    cute::warpgroup_commit_batch();
  }
  // sum += operand y
  __device__ void issue_sum(float (&sum)[kDim / 2], const uint32_t (&operand)[kOthers / 4],
                            uint32_t y) {
    fence_registers(sum);
    cute::warpgroup_arrive();
    multiply_add<Element, kDim, kOthers>(sum, operand,
                                         tile_descriptor(y, Config::kOtherSliceBytes));
    cute::warpgroup_commit_batch();
  }
  __device__ void issue_dq() {
    const int query_slice = kSplitsQueries ? group : 0, column_slice = kSplitsQueries ? 0 : group;
    const uint32_t a = tiles.ds + query_slice * Config::kOwnerSliceBytes;
    const uint32_t b =
        tiles.x0 + owner.stage() * Config::kOwnerBytes + column_slice * Config::kOwnerSliceBytes;
    fence_registers(dq);
    cute::warpgroup_arrive();
    multiply_both_transposed<Element, Config::kOwners>(
        dq, tile_descriptor(a, Config::kOwnerSliceBytes),
        tile_descriptor(b, Config::kOwnerSliceBytes));
    cute::warpgroup_commit_batch();
  }

  __device__ void store_ds() {
    const int key = group * 64 + thread / 32 * 16 + lane() % 16;
    const uint32_t base = tiles.ds + key * 128;
#pragma unroll
    for (int j = 0; j < kOthers / 8; j += 2) {
      const int chunk = j + lane() / 16;
      store_matrices(base + chunk / 8 * Config::kOwnerSliceBytes + (chunk % 8 ^ key % 8) * 16,
                     &ds[2 * j]);
    }
  }

  // Masks are loaded before the scores that they cut. Queries past the end need no mask: their
  // statistics make their weights 0.
  __device__ bool load_masks(const OtherSlot<Config>& slot, int32_t owners,
                             RowMask<kOthers> (&masks)[2]) const {
    const int32_t range = Config::kByKeys ? kOthers : slot.range;
    for (RowMask<kOthers>& mask : masks) mask.fill(~0u);  // else they would be alive all the time
    if (slot.mask < 0 && owners >= Config::kOwners && range >= kOthers) return false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (slot.mask >= 0) {
        masks[r].load(params.queue.work.mask_rows,
                      mask_row(slot.mask, Config::kOwners) + row() + 8 * r);
      }
      if (range < kOthers) masks[r].cut(range);
      if (!in_range(owners, row() + 8 * r)) masks[r].fill(0);
    }
    return true;
  }

  // {lse or delta} of the columns 16 m + {0, 1, 8, 9} + 2 · (lane % 4), those of this thread.
  __device__ float4 of_columns(const float* values, int m) const {
    return *reinterpret_cast<const float4*>(&values[16 * m + lane() % 4 * 4]);
  }
  __device__ bool is_capped() const { return Config::kCaps && params.cap_scale != 0; }
  // visit(element of s, of dw, value of its query, which of the thread's rows): the value is of
  // `values` where owners are keys.
  template <typename Visit>
  __device__ void each_pair(const float* values, const Visit& visit) {
#pragma unroll
    for (int m = 0; m < kOthers / 16; ++m) {
      float4 x{};
      if constexpr (Config::kByKeys) x = of_columns(values, m);
      const float of[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        visit(s[8 * m + i], dw[8 * m + i], of[i / 4 * 2 + i % 2], i / 2 % 2);
      }
    }
  }
  // s: scores, whose product is complete, then weights; with a softcap, where ds asks for it,
  // tanh(…) and −∞ of dead pairs. The cap before the masks: tanh would make −1 of their −∞.
  __device__ void weigh(const OtherSlot<Config>& slot, bool masked,
                        const RowMask<kOthers> (&masks)[2]) {
    fence_registers(s);
    if (is_capped()) {
      cap_scores(s, params.cap_scale);
    }
    if (masked) apply_masks(s, masks, lane());
    if (Config::kHasD0 && is_capped()) return;
    each_pair(slot.lse, [&](float& score, float&, float lse, int r) {
      score = exp2_approx(score * params.scale_log2 - (Config::kByKeys ? lse : own[r].lse));
    });
  }
  // dw: gradients of weights, then of scores.
  __device__ void differentiate(const OtherSlot<Config>& slot) {
    each_pair(slot.delta, [&](float weight, float& change, float delta, int r) {
      change = weight * (change - (Config::kByKeys ? delta : own[r].delta));
    });
  }
  // The same with a softcap. s: t = tanh(…), −∞ of dead pairs, then weights.
  //   w = 2^(softcap log2(e) t − lse),  ds = w (1 − t²) (dw − delta)
  __device__ void differentiate_capped(const OtherSlot<Config>& slot) {
    each_pair(slot.delta, [&](float t, float& change, float delta, int r) {
      change = cuda::slope_of_tanh(t) * (change - (Config::kByKeys ? delta : own[r].delta));
    });
    each_pair(slot.lse, [&](float& t, float& change, float lse, int r) {
      t = exp2_approx(t * params.scale_log2 - (Config::kByKeys ? lse : own[r].lse));
      change *= t;
    });
  }
  static __device__ void pack_all(uint32_t (&packed)[kOthers / 4],
                                  const float (&values)[kOthers / 2]) {
#pragma unroll
    for (int i = 0; i < kOthers / 4; ++i) {
      packed[i] = pack<Element>(values[2 * i], values[2 * i + 1]);
    }
  }
  // Weights and gradients of scores become operands. In each branch, so that registers of a tile's
  // floats become free one by one.
  __device__ void pack_gradients(const OtherSlot<Config>& slot) {
    if (is_capped()) {
      differentiate_capped(slot);
      pack_both();
    } else {
      differentiate(slot);
      pack_both();
    }
  }
  __device__ void pack_both() {
    if constexpr (Config::kHasD1) pack_all(weights, s);
    pack_all(ds, dw);
  }

  __device__ void add_dq(const OtherSlot<Config>& slot, int32_t batch) {
    const int first = kSplitsQueries ? row() : first_row(0, thread);
    const int column_slice = kSplitsQueries ? 0 : group;
    if (params.dq.sums == nullptr) return store_dq(slot, batch, first, column_slice * 64);
    const int64_t plane =
        static_cast<int64_t>(batch * params.heads + slot.head) * Config::kSlices + column_slice;
    add_dq_in_bulk(slot, params.dq.sums + plane * params.q_len * kDqPlane);
  }
  // dq [64][64] of this consumer, in the order of sums.cuh, to a plane [q_len][64]. Its product is
  // complete for all of its warps: they have waited for the whole group of products that read this
  // part of ds.
  __device__ void add_dq_in_bulk(const OtherSlot<Config>& slot, float* base) {
    constexpr uint32_t kRowBytes = 64 * sizeof(float);
    const uint32_t own = kSplitsQueries ? tiles.ds + group * Config::kOwnerSliceBytes
                                        : tiles.dq + group * 64 * kRowBytes;
    const uint32_t at = own + first_row(0, thread) * kRowBytes + lane() % 4 * 16;
    // Eight lanes store parts of two rows that begin at the same bank: odd rows go the other way.
    const uint32_t odd = lane() / 4 % 2;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const auto values = [&](int m) {
        return make_float4(dq[8 * m + 2 * r], dq[8 * m + 2 * r + 1], dq[8 * m + 4 + 2 * r],
                           dq[8 * m + 5 + 2 * r]);
      };
#pragma unroll
      for (int m = 0; m < 4; m += 2) {
        const uint32_t row = at + 8 * r * kRowBytes + 64 * m;
        store_shared_4(row + 64 * odd, odd ? values(m + 1) : values(m));
        store_shared_4(row + 64 * (1 - odd), odd ? values(m) : values(m + 1));
      }
    }
    cutlass::arch::fence_view_async_shared();
    cutlass::arch::NamedBarrier::sync(128, 4 + group);
    const int32_t* rows = slot.rows + (kSplitsQueries ? 64 * group : 0);
    if (slot.in_a_row) {
      if (thread == 0) add_bulk(base + int64_t{rows[0]} * kDqPlane, own, 64 * kRowBytes);
    } else if (thread < 64 && rows[thread] >= 0) {
      add_bulk(base + int64_t{rows[thread]} * kDqPlane, own + thread * kRowBytes, kRowBytes);
    }
    commit_bulk();
  }
  // Tells the other consumer that this one needs ds no longer.
  __device__ void free_ds() {
    if constexpr (kAddsFromDs) wait_until_bulk_is_read();
    cutlass::arch::NamedBarrier::arrive(kBarrierThreads, 3 - group);
  }
  __device__ void store_dq(const OtherSlot<Config>& slot, int32_t batch, int first,
                           int32_t column) {
    const StridedRows& result = params.dq.result;
    Element* base = result.head<Element>(batch, slot.head) + column;
#pragma unroll
    for (int i = 0; i < 32; ++i) dq[i] *= params.scale;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int32_t at = slot.rows[first + 8 * r];
      store_row(dq, r, base + at * result.row_stride, params.dq.dim - column, at >= 0, lane());
    }
  }

  // All tiles of others of one item.
  __device__ void run_item(const WorkTile& tile, int32_t batch) {
    const int32_t count = tile.tiles * params.members;
    for (int32_t t = 0; t < count; ++t) {
      shared.full[other.stage()].wait(other.phase());
      const OtherSlot<Config>& slot = shared.others[other.stage()];
      RowMask<kOthers> masks[2];
      const bool masked = load_masks(slot, tile.owner_count, masks);
      issue_product(s, tiles.x0, y0());
      issue_product(dw, tiles.x1, y1());
      cute::warpgroup_wait<1>();
      weigh(slot, masked, masks);
      if constexpr (kAddsFromDs) {
        if (!ds_is_new) free_ds();  // as late as the copy may be
      }
      cute::warpgroup_wait<0>();
      fence_registers(dw);
      pack_gradients(slot);
      if constexpr (Config::kAddsDq) {
        if (!ds_is_new) cutlass::arch::NamedBarrier::sync(kBarrierThreads, 2 + group);
        store_ds();
        cutlass::arch::fence_view_async_shared();
      }
      if constexpr (Config::kHasD1) issue_sum(d1, weights, y1());
      if constexpr (Config::kAddsDq) {
        // ds of both consumers is there, and dq of the tile before has been read.
        if constexpr (!kAddsFromDs) wait_until_bulk_is_read();
        cutlass::arch::NamedBarrier::sync(kBarrierThreads, 1);
        issue_dq();
        issue_sum(d0, ds, y0());
        cute::warpgroup_wait<1>();
        fence_registers(dq);
        if constexpr (!kAddsFromDs) free_ds();
        ds_is_new = false;
        add_dq(slot, batch);
      } else {
        issue_sum(d0, ds, y0());
      }
      cute::warpgroup_wait<0>();
      if constexpr (Config::kHasD1) fence_registers(d1);
      fence_registers(d0);
      shared.empty[other.stage()].arrive();
      other.next();
    }
  }

  // ---- the same of kDeep, where a consumer leaves out tiles in which it has no live pair

  __device__ void run_deep_item(const WorkTile& tile) {
    const bool has_rows = group * 64 < range_end(tile.owner_count);
    int32_t left = skip_dead(tile.tiles * params.members, has_rows);
    while (left > 0) {
      if constexpr (Config::kHasD0) {
        add_d0(tile.owner_count);
        --left;
      } else {
        weigh_tile<false>(tile.owner_count);
        --left;
        for (; left > 0 && !next_is_dead(has_rows); --left) weigh_tile<true>(tile.owner_count);
        add_d1();
      }
      left = skip_dead(left, has_rows);
    }
  }
  // Of the tile that is next, which is waited for.
  __device__ bool next_is_dead(bool has_rows) {
    shared.full[other.stage()].wait(other.phase());
    const int32_t mask = shared.others[other.stage()].mask;
    return !has_rows || (mask >= 0 && (mask & kDeadRows << group) != 0);
  }
  // Leaves out the dead ones to come; returns how many of `count` tiles are left.
  __device__ int32_t skip_dead(int32_t count, bool has_rows) {
#pragma unroll 1
    for (; count > 0 && next_is_dead(has_rows); --count) {
      release_y0();
      wait_for_y1();
      release_y1();
    }
    return count;
  }
  __device__ void release_y0() {
    shared.empty[other.stage()].arrive();
    other.next();
  }
  __device__ void wait_for_y1() { shared.second_full[second.stage()].wait(second.phase()); }
  __device__ void release_y1() {
    shared.second_empty[second.stage()].arrive();
    second.next();
  }

  // d0 += ds y0
  __device__ void add_d0(int32_t owners) {
    const OtherSlot<Config>& slot = shared.others[other.stage()];
    RowMask<kOthers> masks[2];
    const bool masked = load_masks(slot, owners, masks);
    issue_product(s, tiles.x0, y0());
    wait_for_y1();
    issue_product(dw, tiles.x1, y1());
    cute::warpgroup_wait<1>();
    weigh(slot, masked, masks);
    cute::warpgroup_wait<0>();
    fence_registers(dw);
    release_y1();
    pack_gradients(slot);
    issue_sum(d0, ds, y0());
    cute::warpgroup_wait<0>();
    fence_registers(d0);
    release_y0();
  }
  // Scores of a tile become weights; kAdds: while those of the tile before meet its y1.
  template <bool kAdds>
  __device__ void weigh_tile(int32_t owners) {
    const OtherSlot<Config>& slot = shared.others[other.stage()];
    RowMask<kOthers> masks[2];
    const bool masked = load_masks(slot, owners, masks);
    issue_product(s, tiles.x0, y0());
    if constexpr (kAdds) {
      wait_for_y1();
      issue_sum(d1, weights, y1());
    }
    cute::warpgroup_wait<kAdds ? 1 : 0>();
    weigh(slot, masked, masks);
    release_y0();
    if constexpr (kAdds) end_d1();
    pack_all(weights, s);
  }
  // d1 += w y1
  __device__ void add_d1() {
    wait_for_y1();
    issue_sum(d1, weights, y1());
    end_d1();
  }
  __device__ void end_d1() {
    cute::warpgroup_wait<0>();
    fence_registers(d1);
    release_y1();
  }

  __device__ uint32_t earlier_rows(const WorkTile& tile) const {
    return rows_in(params.queue.work.row_bits, tile.earlier, tile.earlier_bits, row());
  }
  __device__ int32_t position(const WorkTile& tile, int r) const {
    return owner_position(tile, params.queue.work.offsets, row() + 8 * r);
  }

  __device__ void start(const ItemSlot& item) {
    if constexpr (Config::kHasD0) {
#pragma unroll
      for (int i = 0; i < kDim / 2; ++i) d0[i] = 0;
    }
    if constexpr (Config::kHasD1) {
#pragma unroll
      for (int i = 0; i < kDim / 2; ++i) d1[i] = 0;
    }
    if constexpr (!Config::kByKeys) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int32_t at = position(item.tile, r);
        const int64_t head = item.batch * params.heads + item.head;
        own[r] = statistics_of(params.statistics + head * params.q_len, at);
      }
    }
  }
  // Adds what passes before left, and leaves zeros, which later tiles that are not full may meet.
  __device__ void join(const WorkTile& tile) {
    const uint32_t covered = earlier_rows(tile);
    const uint32_t source =
        (group == 0 ? tiles.y0 : tiles.y1) + row() % 64 * Config::kSumRowBytes + lane() % 4 * 16;
#pragma unroll
    for (int s = 0; s < Config::kSumStages; ++s) {
      float* values = s < Config::kSlices ? d0 : d1;
      shared.full[other.stage()].wait(other.phase());
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int r = i % 2, m = i / 2;
        const uint32_t at =
            source + other.stage() * Config::kOtherBytes + 8 * r * Config::kSumRowBytes + 64 * m;
        if (covered >> r & 1) {
          const float4 x = load_shared_4(at);
          float* sum = &values[s % Config::kSlices * 32 + 8 * m + 2 * r];
          sum[0] += x.x, sum[1] += x.y, sum[4] += x.z, sum[5] += x.w;
        }
        clear_shared_4(at);
      }
      cutlass::arch::fence_view_async_shared();
      shared.empty[other.stage()].arrive();
      other.next();
    }
  }
  __device__ int64_t sums_row(const ItemSlot& item, int32_t position) const {
    const int32_t shared_by = params.shares_sums ? params.heads_per_kv : 1;
    const int64_t head = (item.batch * params.queue.heads + item.head) / shared_by;
    return (head * params.owner_len + position) * kDim;
  }

  static __device__ Element* row_of(const StridedRows& rows, const ItemSlot& item,
                                    int32_t position) {
    return rows.head<Element>(item.batch, item.head) + position * rows.row_stride;
  }
  // A row's sums, from and for other passes.
  __device__ void add(const Gradient& gradient, float (&values)[kDim / 2], int r,
                      const ItemSlot& item, int32_t position) const {
    add_halves(row_of(gradient.high, item, position), row_of(gradient.low, item, position), values,
               r, lane());
  }
  __device__ void store(const Gradient& gradient, const float (&values)[kDim / 2], int r,
                        const ItemSlot& item, int32_t position) const {
    if constexpr (Config::kAddsDq) {
      float* row = gradient.sums + sums_row(item, position);
      if (params.shares_sums) {
        add_sums(row, values, r, lane());
      } else {
        store_sums(row, values, r, lane());
      }
    } else {
      store_halves(row_of(gradient.high, item, position), row_of(gradient.low, item, position),
                   values, r, lane());
    }
  }

  __device__ void store_result(const Gradient& gradient, const float (&values)[kDim / 2], int r,
                               const ItemSlot& item, int32_t position, bool store) const {
    store_row(values, r, row_of(gradient.result, item, position), gradient.dim, store, lane());
  }

  __device__ void finish(const ItemSlot& item) {
    const WorkTables& work = params.queue.work;
    const uint32_t earlier = Config::kAddsDq ? 0 : earlier_rows(item.tile);
    const uint32_t later =
        params.only_sums ? 3 : rows_in(work.row_bits, item.tile.later, item.tile.later_bits, row());
    const int32_t at[2] = {position(item.tile, 0), position(item.tile, 1)};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (at[r] < 0 || (earlier >> r & 1) == 0) continue;
      if constexpr (Config::kHasD0) add(params.d0, d0, r, item, at[r]);
      if constexpr (Config::kHasD1) add(params.d1, d1, r, item, at[r]);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (at[r] < 0 || (later >> r & 1) == 0) continue;
      if constexpr (Config::kHasD0) store(params.d0, d0, r, item, at[r]);
      if constexpr (Config::kHasD1) store(params.d1, d1, r, item, at[r]);
    }
    if (params.only_sums || item.tile.later == kAll) return;
    if constexpr (Config::kHasD0) {
#pragma unroll
      for (int i = 0; i < kDim / 2; ++i) d0[i] *= params.scale;
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const bool store = at[r] >= 0 && (later >> r & 1) == 0;
      if constexpr (Config::kHasD0) store_result(params.d0, d0, r, item, at[r], store);
      if constexpr (Config::kHasD1) store_result(params.d1, d1, r, item, at[r], store);
    }
  }

  __device__ void run() {
    for (ItemPosition at;; at.next()) {
      shared.items.full[at.stage()].wait(at.phase());
      const ItemSlot& item = shared.items.slots[at.stage()];
      if (item.live == 0) break;
      shared.owner_full[owner.stage()].wait(owner.phase());
      start(item);
      if constexpr (Config::kDeep) {
        run_deep_item(item.tile);
      } else {
        run_item(item.tile, item.batch);
      }
      arrive_warp(shared.owner_empty[owner.stage()], lane());
      owner.next();
      if constexpr (Config::kAddsDq) {
        if (item.tile.earlier != kNone) join(item.tile);
      }
      finish(item);
      shared.items.stored[at.stage()].arrive();
    }
    if constexpr (Config::kAddsDq) wait_until_bulk_is_added();
  }
};

}  // namespace lace::sm90
