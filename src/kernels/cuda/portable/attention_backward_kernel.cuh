#pragma once

#include <cmath>

#include "kernels/cuda/portable/launch.h"
#include "kernels/cuda/portable/tile_walk.cuh"

namespace lace::cuda::portable {

// Both halves of backward are one loop over a plan: owners x0, x1 stay in shared memory while
// others y0, y1 stream past, and with
//   P  = exp(scale · x0 y0ᵀ − lse),  dS = P ∘ (x1 y1ᵀ − delta)
// the sums  d1 += P y1  (keys only) and  d0 += dS y0  stay in registers: nothing is added
// atomically, and a run repeats bit for bit. Logits are computed twice, 7 products instead of 5.
// A warp has 16 owners. Past head_dim 128 the columns of d0 and d1 are split over kParts blocks.
template <bool kKeys, int kDim0, int kDim1>
struct BackwardConfig {
  static constexpr bool kLarge = kDim0 > 128 || kDim1 > 128;
  static constexpr int kParts = kLarge && kKeys ? 2 : 1;
  static constexpr int kWarps = kLarge ? 4 : 8;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kOwners = 16 * kWarps;
  static constexpr int kChunk = kLarge ? 32 : 64;
  static constexpr int kOwnerBytes = 2 * kOwners * (kDim0 + kDim1);
  static constexpr int kStageBytes = 2 * kChunk * (kDim0 + kDim1);
  struct Memory {
    WalkMemory<kOwners, kChunk> walk;
    RowStatistics statistics[2][kChunk];  // of the others, where owners are keys
  };
  static constexpr int smem_bytes(int stages) {
    return kOwnerBytes + stages * kStageBytes + static_cast<int>(sizeof(Memory));
  }
};

template <typename T, bool kKeys, int kDim0, int kDim1>
__global__ void __launch_bounds__(BackwardConfig<kKeys, kDim0, kDim1>::kThreads)
    backward_kernel(const __grid_constant__ BackwardLaunch launch) {
  using Config = BackwardConfig<kKeys, kDim0, kDim1>;
  constexpr int kOwners = Config::kOwners, kChunk = Config::kChunk, kThreads = Config::kThreads;
  constexpr int kColumnTiles = kChunk / 8, kParts = Config::kParts;
  constexpr int kSumTiles0 = kDim0 / kParts / 8, kSumTiles1 = kKeys ? kDim1 / kParts / 8 : 1;
  const AttentionShape& shape = launch.shape;
  const int ratio = static_cast<int>(shape.heads / shape.kv_heads);
  const int batch = static_cast<int>(blockIdx.z);
  const int head =
      kKeys ? static_cast<int>(blockIdx.y) * ratio + launch.member : static_cast<int>(blockIdx.y);
  const int kv_head = head / ratio;
  const int owner_head = kKeys ? kv_head : head, other_head = kKeys ? head : kv_head;
  const int part = static_cast<int>(blockIdx.x) % kParts;
  const OwnerTile* tile = tile_of_block(launch, head, static_cast<int>(blockIdx.x) / kParts);
  if (tile == nullptr) return;

  extern __shared__ __align__(128) unsigned char smem[];
  const SmemTile<kDim0> x0_tile{smem_address(smem)};
  const SmemTile<kDim1> x1_tile{x0_tile.base + 2 * kOwners * kDim0};
  const uint32_t stages_base = x0_tile.base + Config::kOwnerBytes;
  auto& memory = *reinterpret_cast<typename Config::Memory*>(smem + Config::kOwnerBytes +
                                                             launch.stages * Config::kStageBytes);
  const int64_t owner_len = kKeys ? shape.k_len : shape.q_len;
  TileWalk<kOwners, kChunk> walk(memory.walk, launch.plan, kKeys ? shape.q_len : shape.k_len);

  const int dim0 = static_cast<int>(shape.qk_dim), dim1 = static_cast<int>(shape.v_dim);
  const T* y0 = launch.y0.template head<T>(batch, other_head);
  const T* y1 = launch.y1.template head<T>(batch, other_head);
  const RowStatistics* statistics = launch.statistics + (batch * shape.heads + head) * shape.q_len;
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int first_row = static_cast<int>(threadIdx.x) / 32 * 16;
  const auto load_chunk = [&](int slot, int stage) {
    const int32_t* positions = memory.walk.others[slot];
    const uint32_t base = stages_base + stage * Config::kStageBytes;
    load_rows<kDim0, kChunk, kThreads>(SmemTile<kDim0>{base}, positions, y0, launch.y0.row_stride,
                                       dim0, launch.y0.aligned);
    load_rows<kDim1, kChunk, kThreads>(SmemTile<kDim1>{base + 2 * kChunk * kDim0}, positions, y1,
                                       launch.y1.row_stride, dim1, launch.y1.aligned);
    if (kKeys && threadIdx.x < kChunk) {
      const int32_t row = positions[threadIdx.x];
      memory.statistics[stage][threadIdx.x] =
          row >= 0 ? statistics[row] : RowStatistics{INFINITY, 0};
    }
  };

  walk.begin(*tile, owner_len, 2);
  __syncthreads();
  walk.advance(2, 0);
  __syncthreads();
  walk.advance(0, 1);
  load_rows<kDim0, kOwners, kThreads>(x0_tile, memory.walk.owners,
                                      launch.x0.template head<T>(batch, owner_head),
                                      launch.x0.row_stride, dim0, launch.x0.aligned);
  load_rows<kDim1, kOwners, kThreads>(x1_tile, memory.walk.owners,
                                      launch.x1.template head<T>(batch, owner_head),
                                      launch.x1.row_stride, dim1, launch.x1.aligned);
  if (walk.valid(0)) load_chunk(0, 0);
  RowStatistics own[2] = {{INFINITY, 0}, {INFINITY, 0}};
  if (!kKeys) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int32_t row = memory.walk.owners[first_row + 8 * half + lane / 4];
      if (row >= 0) own[half] = statistics[row];
    }
  }

  float sum0[kSumTiles0][4] = {};
  float sum1[kSumTiles1][4] = {};
  int slot = 0;
  for (int step = 0; walk.valid(slot); step++) {
    const int next = slot == 2 ? 0 : slot + 1;
    const int stage = launch.stages == 2 ? step & 1 : 0;
    wait_copies();
    __syncthreads();
    if (launch.stages == 2 && walk.valid(next)) load_chunk(next, stage ^ 1);
    walk.advance(next, next == 2 ? 0 : next + 1);
    const SmemTile<kDim0> y0_tile{stages_base + stage * Config::kStageBytes};
    const SmemTile<kDim1> y1_tile{y0_tile.base + 2 * kChunk * kDim0};

    float p[kColumnTiles][4] = {};
#pragma unroll
    for (int d = 0; d < kDim0 / 16; d++) {
      uint32_t a[4], b[4];
      x0_tile.left(a, first_row, 2 * d, lane);
#pragma unroll
      for (int j = 0; j < kColumnTiles / 2; j++) {
        y0_tile.right(b, 16 * j, 2 * d, lane);
        multiply<T>(p[2 * j], a, b[0], b[1]);
        multiply<T>(p[2 * j + 1], a, b[2], b[3]);
      }
    }
    float ds[kColumnTiles][4] = {};
#pragma unroll
    for (int d = 0; d < kDim1 / 16; d++) {
      uint32_t a[4], b[4];
      x1_tile.left(a, first_row, 2 * d, lane);
#pragma unroll
      for (int j = 0; j < kColumnTiles / 2; j++) {
        y1_tile.right(b, 16 * j, 2 * d, lane);
        multiply<T>(ds[2 * j], a, b[0], b[1]);
        multiply<T>(ds[2 * j + 1], a, b[2], b[3]);
      }
    }
#pragma unroll
    for (int j = 0; j < kColumnTiles; j++) {
#pragma unroll
      for (int t = 0; t < 4; t++) {
        const RowStatistics of =
            kKeys ? memory.statistics[stage][8 * j + 2 * (lane & 3) + (t & 1)] : own[t >> 1];
        p[j][t] = exp2f(fmaf(p[j][t], launch.scale_log2, -of.lse));
        ds[j][t] -= of.delta;
      }
    }
    if (walk.partial(slot)) {
      walk.template for_dead<kColumnTiles>(slot, first_row + lane / 4, lane,
                                           [&](int j, int t) { p[j][t] = 0; });
    }
    // Left operands of 16 columns each.
    uint32_t weights[kColumnTiles / 2][4], changes[kColumnTiles / 2][4];
#pragma unroll
    for (int j = 0; j < kColumnTiles; j++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float low = p[j][2 * half], high = p[j][2 * half + 1];
        const int index = 2 * (j & 1) + half;
        weights[j / 2][index] = pack<T>(low, high);
        changes[j / 2][index] = pack<T>(low * ds[j][2 * half], high * ds[j][2 * half + 1]);
      }
    }
#pragma unroll
    for (int i = 0; i < kChunk / 16; i++) {
      uint32_t b[4];
      if (kKeys) {
#pragma unroll
        for (int j = 0; j < kSumTiles1 / 2; j++) {
          y1_tile.right_inner(b, 16 * i, part * kSumTiles1 + 2 * j, lane);
          multiply<T>(sum1[2 * j], weights[i], b[0], b[1]);
          multiply<T>(sum1[2 * j + 1], weights[i], b[2], b[3]);
        }
      }
#pragma unroll
      for (int j = 0; j < kSumTiles0 / 2; j++) {
        y0_tile.right_inner(b, 16 * i, part * kSumTiles0 + 2 * j, lane);
        multiply<T>(sum0[2 * j], changes[i], b[0], b[1]);
        multiply<T>(sum0[2 * j + 1], changes[i], b[2], b[3]);
      }
    }
    if (launch.stages == 1) {
      __syncthreads();
      if (walk.valid(next)) load_chunk(next, 0);
    }
    slot = next;
  }

  const int64_t owner_heads = kKeys ? shape.kv_heads : shape.heads;
  const int64_t head_rows = (batch * owner_heads + owner_head) * owner_len;
  const auto write = [&](const auto& sum, int tiles, int dim, float scale, const Rows& to,
                         float* partial) {
    T* result = to.template head<T>(batch, owner_head);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int32_t row = memory.walk.owners[first_row + 8 * half + lane / 4];
      if (row < 0) continue;
#pragma unroll
      for (int j = 0; j < static_cast<int>(sizeof(sum) / sizeof(sum[0])); j++) {
        const int column = 8 * (part * tiles + j) + 2 * (lane & 3);
        if (column >= dim) continue;
        float low = sum[j][2 * half] * scale, high = sum[j][2 * half + 1] * scale;
        float* before = partial + (head_rows + row) * dim + column;
        if (!launch.first) {
          low += before[0];
          high += before[1];
        }
        if (!launch.last) {
          before[0] = low;
          before[1] = high;
        }
        store_pair(result + row * to.row_stride + column, low, high, to.aligned);
      }
    }
  };
  write(sum0, kSumTiles0, dim0, launch.scale, launch.d0, launch.partial0);
  if constexpr (kKeys) write(sum1, kSumTiles1, dim1, 1.0f, launch.d1, launch.partial1);
}

// statistics of every query, a warp each
template <typename T>
__global__ void statistics_kernel(AttentionShape shape, Rows out, Rows dout, const float* lse,
                                  RowStatistics* statistics) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * 8 + threadIdx.x / 32;
  if (row >= shape.batch * shape.heads * shape.q_len) return;
  const int64_t head = row / shape.q_len, position = row % shape.q_len;
  const auto batch = static_cast<int>(head / shape.heads);
  const auto of_batch = static_cast<int>(head % shape.heads);
  const T* a = out.head<T>(batch, of_batch) + position * out.row_stride;
  const T* b = dout.head<T>(batch, of_batch) + position * dout.row_stride;
  float sum = 0;
  for (int d = static_cast<int>(threadIdx.x) % 32; d < shape.v_dim; d += 32) {
    sum = fmaf(to_float(a[d]), to_float(b[d]), sum);
  }
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
  if (threadIdx.x % 32 == 0) {
    const float value = lse[row];
    statistics[row] = {value == -INFINITY ? INFINITY : value * kLog2E, sum};
  }
}

}  // namespace lace::cuda::portable
