#pragma once

#include <cmath>

#include "kernels/cuda/portable/items.cuh"
#include "kernels/cuda/portable/tile_walk.cuh"

namespace lace::cuda::portable {

// One tile of queries a block; K and V stream past it in chunks, each in one buffer: V is on its
// way while the logits are computed, the next K while they weigh V (FlashAttention-2, Dao 2023).
// A warp has kRowTiles · 16 queries; logits, weights and out stay in registers.
template <int kQkDim, int kVDim>
struct ForwardConfig {
  static constexpr bool kLarge = kQkDim > 128 || kVDim > 128;
  static constexpr bool kSmall = kQkDim <= 64 && kVDim <= 64;
  static constexpr int kWarps = 4;
  static constexpr int kRowTiles = kLarge ? 1 : 2;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kBlocks = kSmall ? 3 : kLarge ? 1 : 2;  // a multiprocessor
  static constexpr int kOwners = 16 * kRowTiles * kWarps;
  static constexpr int kChunk = 64;
  static constexpr int kTileBytes = 2 * (kOwners * kQkDim + kChunk * (kQkDim + kVDim));
  static constexpr int kSmemBytes = kTileBytes + sizeof(WalkMemory<kOwners, kChunk>);
  static_assert(2 * kOwners * kVDim <= kTileBytes);       // out, at the end
  static_assert(kSmemBytes + kOtherMemory <= 99 * 1024);  // for GPUs that have no more for a block
};

// The online softmax of 16 · kRowTiles queries a warp, two of each 16 a thread: maxima and sums of
// the thread's own columns, base 2.
template <int kRowTiles>
struct OnlineSoftmax {
  float row_max[kRowTiles][2], row_sum[kRowTiles][2] = {};

  __device__ OnlineSoftmax() {
#pragma unroll
    for (int r = 0; r < kRowTiles; r++) row_max[r][0] = row_max[r][1] = -INFINITY;
  }

  // Logits become weights 2^(scale · logit − max), and `out` so far is rescaled.
  template <int kColumnTiles, int kOutTiles>
  __device__ void step(float (&logits)[kRowTiles][kColumnTiles][4],
                       float (&out)[kRowTiles][kOutTiles][4], float scale) {
#pragma unroll
    for (int r = 0; r < kRowTiles; r++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float peak = -INFINITY;
#pragma unroll
        for (int j = 0; j < kColumnTiles; j++) {
          peak = fmaxf(peak, fmaxf(logits[r][j][2 * half], logits[r][j][2 * half + 1]));
        }
        peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, 1));
        peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, 2));
        const float next = fmaxf(row_max[r][half], peak * scale);
        const float origin = next == -INFINITY ? 0 : next;
        const float factor = exp2f(row_max[r][half] - origin);
        row_max[r][half] = next;
        float sum = 0;
#pragma unroll
        for (int j = 0; j < kColumnTiles; j++) {
#pragma unroll
          for (int side = 0; side < 2; side++) {
            float& x = logits[r][j][2 * half + side];
            x = exp2f(fmaf(x, scale, -origin));
            sum += x;
          }
        }
        row_sum[r][half] = row_sum[r][half] * factor + sum;
#pragma unroll
        for (int j = 0; j < kOutTiles; j++) {
          out[r][j][2 * half] *= factor;
          out[r][j][2 * half + 1] *= factor;
        }
      }
    }
  }
};

template <typename T, int kQkDim, int kVDim>
__global__ void __launch_bounds__(ForwardConfig<kQkDim, kVDim>::kThreads,
                                  ForwardConfig<kQkDim, kVDim>::kBlocks)
    forward_kernel(const __grid_constant__ ForwardLaunch launch) {
  using Config = ForwardConfig<kQkDim, kVDim>;
  constexpr int kRowTiles = Config::kRowTiles, kOwners = Config::kOwners, kChunk = Config::kChunk;
  constexpr int kThreads = Config::kThreads, kColumnTiles = kChunk / 8;
  const BlockTask task = task_of_block(launch.space, launch.plan, 1, [](int head) { return head; });
  if (task.tile == nullptr) return;
  const int batch = task.batch, head = task.head;

  extern __shared__ __align__(128) unsigned char smem[];
  const SmemTile<kQkDim> q_tile{smem_address(smem)};
  const SmemTile<kQkDim> k_tile{q_tile.base + 2 * kOwners * kQkDim};
  const SmemTile<kVDim> v_tile{k_tile.base + 2 * kChunk * kQkDim};
  auto& memory = *reinterpret_cast<WalkMemory<kOwners, kChunk>*>(smem + Config::kTileBytes);
  TileWalk walk(memory, launch.plan, launch.shape.k_len);

  const int kv_head = head / static_cast<int>(launch.shape.heads / launch.shape.kv_heads);
  const T* k = launch.k.head<T>(batch, kv_head);
  const T* v = launch.v.head<T>(batch, kv_head);
  const int qk_dim = static_cast<int>(launch.shape.qk_dim);
  const int v_dim = static_cast<int>(launch.shape.v_dim);
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int first_row = static_cast<int>(threadIdx.x) / 32 * 16 * kRowTiles;
  const int64_t head_rows = (batch * launch.shape.heads + head) * launch.shape.q_len;

  walk.begin(task.tile->source, launch.shape.q_len, 2);
  __syncthreads();
  load_rows<kQkDim, kOwners, kThreads>(q_tile, memory.owners, launch.q.head<T>(batch, head),
                                       launch.q, qk_dim);
  walk.advance(2, 0);
  __syncthreads();
  if (walk.valid(0)) {
    load_rows<kQkDim, kChunk, kThreads>(k_tile, memory.others[0], k, launch.k, qk_dim);
  }

  float out[kRowTiles][kVDim / 8][4] = {};
  OnlineSoftmax<kRowTiles> softmax;

  for (int slot = 0; walk.valid(slot); slot ^= 1) {
    wait_copies();
    __syncthreads();
    load_rows<kVDim, kChunk, kThreads>(v_tile, memory.others[slot], v, launch.v, v_dim);
    walk.advance(slot, slot ^ 1);

    const Live live = walk.template live_pairs<16 * kRowTiles, kChunk>(slot, first_row, 0, lane);
    float logits[kRowTiles][kColumnTiles][4] = {};
    if (live != Live::kNone) {
      add_scores<T>(logits, q_tile, first_row, k_tile, 0, lane);
    }
    wait_copies();
    __syncthreads();
    if (walk.valid(slot ^ 1)) {
      load_rows<kQkDim, kChunk, kThreads>(k_tile, memory.others[slot ^ 1], k, launch.k, qk_dim);
    }
    if (live == Live::kNone) continue;

#pragma unroll
    for (int r = 0; r < kRowTiles; r++) {
      if (launch.negative) {
#pragma unroll
        for (int j = 0; j < kColumnTiles; j++) {
#pragma unroll
          for (int t = 0; t < 4; t++) logits[r][j][t] = -logits[r][j][t];
        }
      }
      if (live == Live::kSome) {
        walk.template for_dead<kColumnTiles>(slot, first_row + 16 * r + lane / 4, 0, lane,
                                             [&](int j, int t) { logits[r][j][t] = -INFINITY; });
      }
    }
    softmax.step(logits, out, launch.scale);
    uint32_t weights[kRowTiles][kColumnTiles / 2][4];
    pack_left<T>(weights, logits);
    add_weighted<T>(out, weights, v_tile, 0, 0, lane);
  }

  wait_copies();
  wait_for_passes(launch.space, task, 1);
  const SmemTile<kVDim> out_tile{q_tile.base};
  __syncthreads();  // the tiles are read
#pragma unroll
  for (int r = 0; r < kRowTiles; r++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int in_tile = first_row + 16 * r + 8 * half + lane / 4;
      const int32_t row = memory.owners[in_tile];
      float* partial = launch.partial + (head_rows + row) * v_dim;
      if (row >= 0 && has_earlier(launch.space, task, in_tile)) {
        // What passes before left is joined like one key, whose logit is their log-sum-exp.
        const float lse = __ldcg(launch.lse + head_rows + row) * kLog2E;
        const float top = fmaxf(softmax.row_max[r][half], lse);
        const float origin = top == -INFINITY ? 0 : top;
        const float factor = exp2f(softmax.row_max[r][half] - origin);
        const float weight = exp2f(lse - origin);
        softmax.row_max[r][half] = top;
        softmax.row_sum[r][half] =
            softmax.row_sum[r][half] * factor + ((lane & 3) == 0 ? weight : 0);
#pragma unroll
        for (int j = 0; j < kVDim / 8; j++) {
          const int column = 8 * j + 2 * (lane & 3);
          if (column >= v_dim) continue;
          const float2 pair = __ldcg(reinterpret_cast<const float2*>(partial + column));
          out[r][j][2 * half] = out[r][j][2 * half] * factor + pair.x * weight;
          out[r][j][2 * half + 1] = out[r][j][2 * half + 1] * factor + pair.y * weight;
        }
      }
      __syncwarp();  // the rows of a quad are together again
      float sum = softmax.row_sum[r][half];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      const float factor = sum > 0 ? 1 / sum : 0;
      const bool later = row >= 0 && has_later(launch.space, task, in_tile);
      if (row >= 0 && (lane & 3) == 0) {
        launch.lse[head_rows + row] =
            sum > 0 ? (softmax.row_max[r][half] + log2f(sum)) / kLog2E : -INFINITY;
      }
#pragma unroll
      for (int j = 0; j < kVDim / 8; j++) {
        const float low = out[r][j][2 * half] * factor, high = out[r][j][2 * half + 1] * factor;
        out_tile.store_pair(in_tile, j, lane, pack<T>(low, high));
        const int column = 8 * j + 2 * (lane & 3);
        if (later && column < v_dim) *reinterpret_cast<float2*>(partial + column) = {low, high};
      }
    }
  }
  __syncthreads();
  // A later pass stores the rows that it finishes once more.
  if (!is_left(launch.space, task)) {
    store_rows<kVDim, kOwners, kThreads>(out_tile, memory.owners, launch.out.head<T>(batch, head),
                                         launch.out, v_dim);
  }
  tell_done(launch.space, task);
}

}  // namespace lace::cuda::portable
