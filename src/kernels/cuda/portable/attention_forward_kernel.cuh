#pragma once

#include <cmath>

#include "kernels/cuda/portable/launch.h"
#include "kernels/cuda/portable/tile_walk.cuh"

namespace lace::cuda::portable {

// One tile of queries a block; K and V stream past it in chunks, each in one buffer: V is on its
// way while the logits are computed, the next K while they weigh V (FlashAttention-2, Dao 2023).
// A warp has kRowTiles · 16 queries; logits, weights and out stay in registers.
template <int kQkDim, int kVDim>
struct ForwardConfig {
  static constexpr int kWarps = 4;
  static constexpr int kRowTiles = kQkDim > 128 || kVDim > 128 ? 1 : 2;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kOwners = 16 * kRowTiles * kWarps;
  static constexpr int kChunk = 64;
  static constexpr int kTileBytes = 2 * (kOwners * kQkDim + kChunk * (kQkDim + kVDim));
  static constexpr int kSmemBytes = kTileBytes + sizeof(WalkMemory<kOwners, kChunk>);
};

template <typename T, int kQkDim, int kVDim>
__global__ void __launch_bounds__(ForwardConfig<kQkDim, kVDim>::kThreads)
    forward_kernel(const __grid_constant__ ForwardLaunch launch) {
  using Config = ForwardConfig<kQkDim, kVDim>;
  constexpr int kRowTiles = Config::kRowTiles, kOwners = Config::kOwners, kChunk = Config::kChunk;
  constexpr int kColumnTiles = kChunk / 8;
  const int head = static_cast<int>(blockIdx.y), batch = static_cast<int>(blockIdx.z);
  const OwnerTile* tile = tile_of_block(launch, head, static_cast<int>(blockIdx.x));
  if (tile == nullptr) return;

  extern __shared__ __align__(128) unsigned char smem[];
  const SmemTile<kQkDim> q_tile{smem_address(smem)};
  const SmemTile<kQkDim> k_tile{q_tile.base + 2 * kOwners * kQkDim};
  const SmemTile<kVDim> v_tile{k_tile.base + 2 * kChunk * kQkDim};
  auto& memory = *reinterpret_cast<WalkMemory<kOwners, kChunk>*>(smem + Config::kTileBytes);
  TileWalk<kOwners, kChunk> walk(memory, launch.plan, launch.shape.k_len);

  const int kv_head = head / static_cast<int>(launch.shape.heads / launch.shape.kv_heads);
  const T* q = launch.q.head<T>(batch, head);
  const T* k = launch.k.head<T>(batch, kv_head);
  const T* v = launch.v.head<T>(batch, kv_head);
  const int qk_dim = static_cast<int>(launch.shape.qk_dim);
  const int v_dim = static_cast<int>(launch.shape.v_dim);
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int first_row = static_cast<int>(threadIdx.x) / 32 * 16 * kRowTiles;
  const int64_t head_rows = (batch * launch.shape.heads + head) * launch.shape.q_len;

  walk.begin(*tile, launch.shape.q_len, 2);
  __syncthreads();
  walk.advance(2, 0);
  __syncthreads();
  load_rows<kQkDim, kOwners, Config::kThreads>(q_tile, memory.owners, q, launch.q.row_stride,
                                               qk_dim, launch.q.aligned);
  if (walk.valid(0)) {
    load_rows<kQkDim, kChunk, Config::kThreads>(k_tile, memory.others[0], k, launch.k.row_stride,
                                                qk_dim, launch.k.aligned);
  }

  float out[kRowTiles][kVDim / 8][4] = {};
  float row_max[kRowTiles][2], row_sum[kRowTiles][2];  // max of scale · log2(e) · logits
#pragma unroll
  for (int r = 0; r < kRowTiles; r++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      row_max[r][half] = -INFINITY;
      row_sum[r][half] = 0;
      if (launch.pass == 0) continue;
      // Goes on from what the passes before left.
      const int32_t row = memory.owners[first_row + 16 * r + 8 * half + lane / 4];
      if (row < 0) continue;
      row_max[r][half] = launch.lse[head_rows + row] * kLog2E;
      if (row_max[r][half] == -INFINITY) continue;
      row_sum[r][half] = (lane & 3) == 0 ? 1 : 0;
      const float* partial = launch.partial + (head_rows + row) * v_dim;
#pragma unroll
      for (int j = 0; j < kVDim / 8; j++) {
        const int column = 8 * j + 2 * (lane & 3);
        if (column >= v_dim) continue;
        out[r][j][2 * half] = partial[column];
        out[r][j][2 * half + 1] = partial[column + 1];
      }
    }
  }

  for (int slot = 0; walk.valid(slot); slot ^= 1) {
    wait_copies();
    __syncthreads();
    load_rows<kVDim, kChunk, Config::kThreads>(v_tile, memory.others[slot], v, launch.v.row_stride,
                                               v_dim, launch.v.aligned);
    walk.advance(slot, slot ^ 1);

    float logits[kRowTiles][kColumnTiles][4] = {};
#pragma unroll
    for (int d = 0; d < kQkDim / 16; d++) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int r = 0; r < kRowTiles; r++) q_tile.left(a[r], first_row + 16 * r, 2 * d, lane);
#pragma unroll
      for (int j = 0; j < kColumnTiles / 2; j++) {
        uint32_t b[4];
        k_tile.right(b, 16 * j, 2 * d, lane);
#pragma unroll
        for (int r = 0; r < kRowTiles; r++) {
          multiply<T>(logits[r][2 * j], a[r], b[0], b[1]);
          multiply<T>(logits[r][2 * j + 1], a[r], b[2], b[3]);
        }
      }
    }
    const bool partial = walk.partial(slot);
    wait_copies();
    __syncthreads();
    if (walk.valid(slot ^ 1)) {
      load_rows<kQkDim, kChunk, Config::kThreads>(k_tile, memory.others[slot ^ 1], k,
                                                  launch.k.row_stride, qk_dim, launch.k.aligned);
    }

#pragma unroll
    for (int r = 0; r < kRowTiles; r++) {
      if (launch.negative) {
#pragma unroll
        for (int j = 0; j < kColumnTiles; j++) {
#pragma unroll
          for (int t = 0; t < 4; t++) logits[r][j][t] = -logits[r][j][t];
        }
      }
      if (partial) {
        walk.template for_dead<kColumnTiles>(slot, first_row + 16 * r + lane / 4, lane,
                                             [&](int j, int t) { logits[r][j][t] = -INFINITY; });
      }
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float peak = -INFINITY;
#pragma unroll
        for (int j = 0; j < kColumnTiles; j++) {
          peak = fmaxf(peak, fmaxf(logits[r][j][2 * half], logits[r][j][2 * half + 1]));
        }
        peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, 1));
        peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, 2));
        const float next = fmaxf(row_max[r][half], peak * launch.scale);
        const float origin = next == -INFINITY ? 0 : next;
        const float factor = exp2f(row_max[r][half] - origin);
        row_max[r][half] = next;
        float sum = 0;
#pragma unroll
        for (int j = 0; j < kColumnTiles; j++) {
#pragma unroll
          for (int side = 0; side < 2; side++) {
            float& x = logits[r][j][2 * half + side];
            x = exp2f(fmaf(x, launch.scale, -origin));
            sum += x;
          }
        }
        row_sum[r][half] = row_sum[r][half] * factor + sum;
#pragma unroll
        for (int j = 0; j < kVDim / 8; j++) {
          out[r][j][2 * half] *= factor;
          out[r][j][2 * half + 1] *= factor;
        }
      }
    }

#pragma unroll
    for (int i = 0; i < kChunk / 16; i++) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int r = 0; r < kRowTiles; r++) {
        a[r][0] = pack<T>(logits[r][2 * i][0], logits[r][2 * i][1]);
        a[r][1] = pack<T>(logits[r][2 * i][2], logits[r][2 * i][3]);
        a[r][2] = pack<T>(logits[r][2 * i + 1][0], logits[r][2 * i + 1][1]);
        a[r][3] = pack<T>(logits[r][2 * i + 1][2], logits[r][2 * i + 1][3]);
      }
#pragma unroll
      for (int j = 0; j < kVDim / 16; j++) {
        uint32_t b[4];
        v_tile.right_inner(b, 16 * i, 2 * j, lane);
#pragma unroll
        for (int r = 0; r < kRowTiles; r++) {
          multiply<T>(out[r][2 * j], a[r], b[0], b[1]);
          multiply<T>(out[r][2 * j + 1], a[r], b[2], b[3]);
        }
      }
    }
  }

  T* result = launch.out.head<T>(batch, head);
#pragma unroll
  for (int r = 0; r < kRowTiles; r++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float sum = row_sum[r][half];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      const int32_t row = memory.owners[first_row + 16 * r + 8 * half + lane / 4];
      if (row < 0) continue;
      const float factor = sum > 0 ? 1 / sum : 0;
      if ((lane & 3) == 0) {
        launch.lse[head_rows + row] =
            sum > 0 ? (row_max[r][half] + log2f(sum)) / kLog2E : -INFINITY;
      }
#pragma unroll
      for (int j = 0; j < kVDim / 8; j++) {
        const int column = 8 * j + 2 * (lane & 3);
        if (column >= v_dim) continue;
        const float low = out[r][j][2 * half] * factor, high = out[r][j][2 * half + 1] * factor;
        store_pair(result + row * launch.out.row_stride + column, low, high, launch.out.aligned);
        if (!launch.last_pass) {
          float* partial = launch.partial + (head_rows + row) * v_dim + column;
          partial[0] = low;
          partial[1] = high;
        }
      }
    }
  }
}

}  // namespace lace::cuda::portable
