#pragma once

#include "kernels/decode/cuda/machine.cuh"
#include "kernels/decode/cuda/tasks.h"
#include "kernels/decode/gpu_decode.h"

namespace lace::cuda::decode {

// A row of the residual stream as the phases before have left it: base + Σ parts.
struct StreamRow {
  const float* base = nullptr;   // [d_model]
  const float* parts = nullptr;  // the first; null: none
  int64_t part_stride = 0;
  int part_count = 0;
  const float* positions[kMaxDecodePositions] = {};  // added to an embedding; null: none
  float* copy = nullptr;                             // where the row goes; null: nowhere
};

// In global or shared memory.
struct NormWeights {
  const float *weight = nullptr, *bias = nullptr;
  float eps = 0;
};

// kWidth numbers side by side: one, or four at a multiple of 16 bytes.
template <int kWidth>
struct Numbers {
  float v[kWidth];

  // From what this launch may have written.
  __device__ static Numbers load(const float* from) {
    Numbers n;
    if constexpr (kWidth == 4) {
      const float4 four = __ldcg(reinterpret_cast<const float4*>(from));
      n.v[0] = four.x, n.v[1] = four.y, n.v[2] = four.z, n.v[3] = four.w;
    } else {
      n.v[0] = __ldcg(from);
    }
    return n;
  }
  // From what no launch writes meanwhile.
  __device__ static Numbers load_constant(const float* from) {
    Numbers n;
    if constexpr (kWidth == 4) {
      const float4 four = *reinterpret_cast<const float4*>(from);
      n.v[0] = four.x, n.v[1] = four.y, n.v[2] = four.z, n.v[3] = four.w;
    } else {
      n.v[0] = *from;
    }
    return n;
  }
  __device__ void store(float* to) const {
    if constexpr (kWidth == 4) {
      *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
    } else {
      *to = v[0];
    }
  }
  __device__ void add(const Numbers& other) {
#pragma unroll
    for (int i = 0; i < kWidth; i++) v[i] += other.v[i];
  }
};

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(~0u, value, lanes);
  return value;
}

// LN(row), by one warp: calls put(column, numbers) for all columns. buffer: [d_model] of the warp's
// own in shared memory; a lane reads there what it has written itself.
template <int kWidth, typename Put>
__device__ void norm_row(const StreamRow& row, const NormWeights& norm, int d_model, float* buffer,
                         Put put) {
  using N = Numbers<kWidth>;
  constexpr int kAtOnce = 4, kStep = 32 * kWidth;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float sum = 0;
#pragma unroll 1
  for (int first = lane * kWidth; first < d_model; first += kAtOnce * kStep) {
    N x[kAtOnce] = {};
#pragma unroll
    for (int u = 0; u < kAtOnce; u++) {
      if (first + u * kStep < d_model) x[u] = N::load(row.base + first + u * kStep);
    }
#pragma unroll
    for (int p = 0; p < kMaxDecodePositions; p++) {
      if (row.positions[p] == nullptr) continue;
#pragma unroll
      for (int u = 0; u < kAtOnce; u++) {
        if (first + u * kStep < d_model) x[u].add(N::load(row.positions[p] + first + u * kStep));
      }
    }
#pragma unroll 4
    for (int p = 0; p < row.part_count; p++) {
      const float* part = row.parts + p * row.part_stride + first;
#pragma unroll
      for (int u = 0; u < kAtOnce; u++) {
        if (first + u * kStep < d_model) x[u].add(N::load(part + u * kStep));
      }
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; u++) {
      if (first + u * kStep >= d_model) break;
      x[u].store(buffer + first + u * kStep);
      if (row.copy != nullptr) x[u].store(row.copy + first + u * kStep);
#pragma unroll
      for (int i = 0; i < kWidth; i++) sum += x[u].v[i];
    }
  }
  const float mean = warp_sum(sum) / static_cast<float>(d_model);
  float squares = 0;
#pragma unroll 1
  for (int first = lane * kWidth; first < d_model; first += kAtOnce * kStep) {
#pragma unroll
    for (int u = 0; u < kAtOnce; u++) {
      if (first + u * kStep >= d_model) break;
#pragma unroll
      for (int i = 0; i < kWidth; i++) {
        const float away = buffer[first + u * kStep + i] - mean;
        squares += away * away;
      }
    }
  }
  const float variance = warp_sum(squares) / static_cast<float>(d_model);
  const float rstd = 1.0f / sqrtf(variance + norm.eps);
#pragma unroll 1
  for (int column = lane * kWidth; column < d_model; column += kStep) {
    N y, weight = N::load_constant(norm.weight + column),
         bias = N::load_constant(norm.bias + column);
#pragma unroll
    for (int i = 0; i < kWidth; i++) {
      y.v[i] = (buffer[column + i] - mean) * rstd * weight.v[i] + bias.v[i];
    }
    put(column, y);
  }
}

}  // namespace lace::cuda::decode
