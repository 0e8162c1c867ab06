#pragma once

#include <algorithm>

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/sm90/backward_params.h"
#include "kernels/cuda/sm90/hopper.cuh"
#include "kernels/cuda/sm90/sums.cuh"

// What backward does row by row, before and after its products. Bound by memory.

namespace lace::sm90 {

constexpr int kRowThreads = 256;
constexpr int kRowBlocks = 132 * 8;

// Where a row of [batch, heads, rows] is.
struct RowOf {
  int64_t batch, head, row;
  __device__ RowOf(int64_t index, int64_t heads, int64_t rows)
      : batch(index / (heads * rows)), head(index / rows % heads), row(index % rows) {}
  __device__ int64_t offset(int64_t batch_stride, int64_t head_stride, int64_t row_stride) const {
    return batch * batch_stride + head * head_stride + row * row_stride;
  }
};

struct StatisticsParams {
  Tensor4 out, dout;
  const float* lse;
  RowStatistics* statistics;
  float* sums;
  int64_t count, heads, rows;
  int32_t dim, sums_dim;
};

// Eight lanes a row, 16 bytes each at a time; several rows at once, so that many loads are under
// way.
constexpr int kRowsAtOnce = 4;

template <typename Element>
__global__ void __launch_bounds__(kRowThreads) statistics_kernel(const StatisticsParams p) {
  const int lane = threadIdx.x % 8;
  const int64_t groups = int64_t{gridDim.x} * (kRowThreads / 8);
  for (int64_t first = blockIdx.x * int64_t{kRowThreads / 8} + threadIdx.x / 8; first < p.count;
       first += groups * kRowsAtOnce) {
    if (p.sums != nullptr) {
#pragma unroll
      for (int u = 0; u < kRowsAtOnce; ++u) {
        const int64_t i = first + u * groups;
        if (i >= p.count) continue;
        for (int column = lane * 4; column < p.sums_dim; column += 32) {
          *reinterpret_cast<float4*>(p.sums + i * p.sums_dim + column) = make_float4(0, 0, 0, 0);
        }
      }
    }
    float sums[kRowsAtOnce] = {};
    for (int column = lane * 8; column < p.dim; column += 64) {
      uint4 a[kRowsAtOnce], b[kRowsAtOnce];
#pragma unroll
      for (int u = 0; u < kRowsAtOnce; ++u) {
        const int64_t i = min(first + u * groups, p.count - 1);
        const RowOf at(i, p.heads, p.rows);
        const auto* out = static_cast<const Element*>(p.out.data) +
                          at.offset(p.out.batch_stride, p.out.head_stride, p.out.row_stride);
        const auto* dout = static_cast<const Element*>(p.dout.data) +
                           at.offset(p.dout.batch_stride, p.dout.head_stride, p.dout.row_stride);
        a[u] = __ldg(reinterpret_cast<const uint4*>(out + column));
        b[u] = __ldg(reinterpret_cast<const uint4*>(dout + column));
      }
#pragma unroll
      for (int u = 0; u < kRowsAtOnce; ++u) {
        const uint32_t as[4] = {a[u].x, a[u].y, a[u].z, a[u].w};
        const uint32_t bs[4] = {b[u].x, b[u].y, b[u].z, b[u].w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float2 x = cuda::unpack<Element>(as[j]), y = cuda::unpack<Element>(bs[j]);
          sums[u] += x.x * y.x + x.y * y.y;
        }
      }
    }
    const uint32_t octet = 0xffu << (threadIdx.x % 32 / 8 * 8);
#pragma unroll
    for (int u = 0; u < kRowsAtOnce; ++u) {
      const int64_t i = first + u * groups;
      for (int step = 4; step > 0; step /= 2) sums[u] += __shfl_xor_sync(octet, sums[u], step);
      if (lane == 0 && i < p.count) {
        const float lse = p.lse[i] * 1.4426950408889634f;
        p.statistics[i] = make_float2(lse == -INFINITY ? INFINITY : lse, sums[u]);
      }
    }
  }
}

template <typename Element>
void launch_statistics(const BackwardArgs& args, RowStatistics* statistics, float* sums, int dim,
                       cudaStream_t stream) {
  const AttentionShape& s = args.shape;
  const int64_t count = s.batch * s.heads * s.q_len;
  const StatisticsParams params{
      args.out, args.dout, static_cast<const float*>(args.lse), statistics, sums, count,
      s.heads,  s.q_len,   static_cast<int32_t>(s.v_dim),       dim};
  const int64_t blocks = (count + kRowThreads / 8 - 1) / (kRowThreads / 8);
  statistics_kernel<Element>
      <<<static_cast<int>(std::min<int64_t>(blocks, kRowBlocks)), kRowThreads, 0, stream>>>(params);
  LACE_CUDA(cudaGetLastError());
}

struct RoundParams {
  Gradient gradient;
  float scale;
  int64_t count, heads, rows;  // threads, heads of the result
  int32_t dim, members;
};

__device__ inline const uint2* halves_of(const Rows16& rows, int64_t offset) {
  return reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(rows.data) + offset);
}

// A thread makes 16 columns of a row.
template <typename Element>
__global__ void __launch_bounds__(kRowThreads) round_sums_kernel(const RoundParams p) {
  const int parts = p.dim / 16;
  for (int64_t i = blockIdx.x * int64_t{kRowThreads} + threadIdx.x; i < p.count;
       i += int64_t{gridDim.x} * kRowThreads) {
    const int part = static_cast<int>(i % parts);
    if (part * 16 >= p.gradient.dim) continue;
    const RowOf at(i / parts, p.heads, p.rows);
    float total[16] = {};
    for (int32_t m = 0; m < p.members; ++m) {
      const int64_t head = (at.batch * p.heads + at.head) * p.members + m;
      const int64_t offset = (head * p.rows + at.row) * p.dim + part * 16;
#pragma unroll
      for (int c = 0; c < 4; ++c) {  // in the order of backward_params.h
        const float4 x = p.gradient.sums != nullptr
                             ? __ldcs(reinterpret_cast<const float4*>(p.gradient.sums + offset) + c)
                             : join_halves(__ldcs(halves_of(p.gradient.high, offset) + c),
                                           __ldcs(halves_of(p.gradient.low, offset) + c));
        total[2 * c] += x.x, total[2 * c + 1] += x.y;
        total[8 + 2 * c] += x.z, total[8 + 2 * c + 1] += x.w;
      }
    }
    uint32_t packed[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      packed[j] = pack<Element>(total[2 * j] * p.scale, total[2 * j + 1] * p.scale);
    }
    const Rows16& result = p.gradient.result;
    auto* target = static_cast<Element*>(result.data) +
                   at.offset(result.batch_stride, result.head_stride, result.row_stride) +
                   part * 16;
    store_16_bytes(target, {packed[0], packed[1], packed[2], packed[3]});
    if (part * 16 + 8 < p.gradient.dim) {
      store_16_bytes(target + 8, {packed[4], packed[5], packed[6], packed[7]});
    }
  }
}

template <typename Element>
void launch_round_sums(const Gradient& gradient, int dim, float scale, int64_t batch, int64_t heads,
                       int64_t rows, int32_t members, cudaStream_t stream) {
  const int64_t count = batch * heads * rows * (dim / 16);
  const RoundParams params{gradient, scale, count, heads, rows, dim, members};
  const int64_t blocks = (count + kRowThreads - 1) / kRowThreads;
  round_sums_kernel<Element>
      <<<static_cast<int>(std::min<int64_t>(blocks, kRowBlocks * 4)), kRowThreads, 0, stream>>>(
          params);
  LACE_CUDA(cudaGetLastError());
}

}  // namespace lace::sm90
