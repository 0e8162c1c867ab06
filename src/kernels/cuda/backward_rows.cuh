#pragma once

#include <cmath>
#include <numbers>

#include "kernels/cuda/backward_rows.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/pairs.cuh"

namespace lace::cuda {

// Bound by memory. A block has some rows of four heads, which often lie side by side; no thread
// divides 64 bits, and each has many loads under way.

constexpr int kRowThreads = 256;
constexpr int kRowHeads = 4;

// How many blocks of `size` cover `count`.
__host__ __device__ inline int32_t cover(int32_t count, int32_t size) {
  return (count + size - 1) / size;
}

// The first of a block's heads and rows.
struct RowBlock {
  int32_t batch, head, row;
  __device__ RowBlock(const RowsShape& shape, int32_t rows_of_block) {
    const int32_t of_heads = cover(static_cast<int32_t>(shape.heads), kRowHeads);
    const int32_t of_rows = cover(static_cast<int32_t>(shape.rows), rows_of_block);
    const int32_t index = static_cast<int32_t>(blockIdx.x) / of_heads;
    head = (static_cast<int32_t>(blockIdx.x) - index * of_heads) * kRowHeads;
    batch = index / of_rows;
    row = (index - batch * of_rows) * rows_of_block;
  }
};

inline unsigned block_count(const RowsShape& shape, int32_t rows_of_block) {
  return static_cast<unsigned>(shape.batch * cover(static_cast<int32_t>(shape.heads), kRowHeads) *
                               cover(static_cast<int32_t>(shape.rows), rows_of_block));
}

// Eight lanes a row, 16 bytes each at a time; kRowsAtOnce neighbouring rows.
constexpr int kRowsAtOnce = 4;
constexpr int kStatisticsRows = kRowThreads / 8 / kRowHeads * kRowsAtOnce;

template <typename Element>
__global__ void __launch_bounds__(kRowThreads)
    statistics_kernel(const RowsShape shape, const StridedRows out, const StridedRows dout,
                      const LseRows lse, RowStatistics* statistics, float* sums, int32_t sums_dim) {
  const RowBlock block(shape, kStatisticsRows);
  const int lane = static_cast<int>(threadIdx.x) % 8, own = static_cast<int>(threadIdx.x) / 8;
  const int32_t head = block.head + own % kRowHeads;
  const int32_t first = block.row + own / kRowHeads * kRowsAtOnce;
  const auto rows = static_cast<int32_t>(shape.rows);
  if (head >= shape.heads || first >= rows) return;
  const int64_t of_all = (block.batch * shape.heads + head) * shape.rows + first;

  const bool has_row = lane < kRowsAtOnce && first + lane < rows;  // whose results it writes
  const float row_lse = has_row ? __ldg(lse.lse + of_all + lane) : 0;
  const float row_dlse = has_row && lse.dlse != nullptr ? __ldg(lse.dlse + of_all + lane) : 0;
  const Element* a_rows = out.head<Element>(block.batch, head);
  const Element* b_rows = dout.head<Element>(block.batch, head);
  float delta[kRowsAtOnce] = {};
  for (int column = lane * 8; column < shape.dim; column += 64) {
    uint4 a[kRowsAtOnce], b[kRowsAtOnce];
#pragma unroll
    for (int u = 0; u < kRowsAtOnce; u++) {
      const int64_t row = min(first + u, rows - 1);
      a[u] = load_elements(a_rows + row * out.row_stride + column, out.aligned);
      b[u] = load_elements(b_rows + row * dout.row_stride + column, dout.aligned);
    }
#pragma unroll
    for (int u = 0; u < kRowsAtOnce; u++) {
      const uint32_t as[4] = {a[u].x, a[u].y, a[u].z, a[u].w};
      const uint32_t bs[4] = {b[u].x, b[u].y, b[u].z, b[u].w};
#pragma unroll
      for (int w = 0; w < 4; w++) {
        const float2 x = unpack<Element>(as[w]), y = unpack<Element>(bs[w]);
        delta[u] = fmaf(x.x, y.x, fmaf(x.y, y.y, delta[u]));
      }
    }
  }
  if (sums != nullptr) {
    auto* clear = reinterpret_cast<float4*>(sums + of_all * sums_dim);
    const int count = min(kRowsAtOnce, rows - first) * (sums_dim / 4);
    for (int i = lane; i < count; i += 8) clear[i] = {0, 0, 0, 0};
  }
  const uint32_t octet = 0xffu << (threadIdx.x % 32 / 8 * 8);
  float of_lane = 0;
#pragma unroll
  for (int u = 0; u < kRowsAtOnce; u++) {
#pragma unroll
    for (int lanes = 4; lanes > 0; lanes /= 2) {
      delta[u] += __shfl_xor_sync(octet, delta[u], lanes);
    }
    if (lane == u) of_lane = delta[u];
  }
  if (has_row) {
    of_lane -= row_dlse;
    if (lse.deltas != nullptr) lse.deltas[of_all + lane] = of_lane;
    statistics[of_all + lane] =
        row_lse == -INFINITY ? RowStatistics{INFINITY, 0}
                             : RowStatistics{row_lse * std::numbers::log2e_v<float>, of_lane};
  }
}

template <typename Element>
void launch_statistics(const RowsShape& shape, const StridedRows& out, const StridedRows& dout,
                       const LseRows& lse, RowStatistics* statistics, float* sums, int32_t sums_dim,
                       cudaStream_t stream) {
  statistics_kernel<Element><<<block_count(shape, kStatisticsRows), kRowThreads, 0, stream>>>(
      shape, out, dout, lse, statistics, sums, sums_dim);
  LACE_CUDA(cudaGetLastError());
}

// Rows of a block, in which a thread makes 16 of `dim` columns.
__host__ __device__ inline int rows_of_round_block(int32_t dim) {
  return kRowThreads / (dim / 16) / kRowHeads;
}

// width: columns of a plane
template <typename Element>
__global__ void __launch_bounds__(kRowThreads)
    round_kernel(const RowsShape shape, const SumRows sums, int32_t width, int32_t members,
                 float scale, const StridedRows result) {
  const int parts = sums.dim / 16, own = static_cast<int>(threadIdx.x) / parts;
  const RowBlock block(shape, rows_of_round_block(sums.dim));
  const int32_t head = block.head + own % kRowHeads;
  const int64_t row = block.row + own / kRowHeads;
  const int column = (static_cast<int>(threadIdx.x) - own * parts) * 16;
  const bool inside = own < rows_of_round_block(sums.dim) * kRowHeads && head < shape.heads;
  if (!inside || row >= shape.rows || column >= shape.dim) return;
  int32_t plane = 0, of_plane = column;
  for (; of_plane >= width; of_plane -= width) ++plane;
  float total[16] = {};
  for (int32_t m = 0; m < members; m++) {
    const int64_t sums_head = (block.batch * shape.heads + head) * members + m;
    const int64_t offset =
        ((sums_head * sums.planes + plane) * shape.rows + row) * width + of_plane;
#pragma unroll
    for (int c = 0; c < 4; c++) {
      const float4 x =
          sums.whole != nullptr
              ? __ldcs(reinterpret_cast<const float4*>(sums.whole + offset) + c)
              : join_halves(__ldcs(reinterpret_cast<const uint2*>(sums.high + offset) + c),
                            __ldcs(reinterpret_cast<const uint2*>(sums.low + offset) + c));
      total[2 * c] += x.x, total[2 * c + 1] += x.y;
      total[8 + 2 * c] += x.z, total[8 + 2 * c + 1] += x.w;
    }
  }
  uint32_t pairs[8];
#pragma unroll
  for (int j = 0; j < 8; j++) {
    pairs[j] = pack<Element>(total[2 * j] * scale, total[2 * j + 1] * scale);
  }
  Element* to = result.head<Element>(block.batch, head) + row * result.row_stride + column;
  store_elements(to, {pairs[0], pairs[1], pairs[2], pairs[3]}, result.aligned);
  if (column + 8 < shape.dim) {
    store_elements(to + 8, {pairs[4], pairs[5], pairs[6], pairs[7]}, result.aligned);
  }
}

template <typename Element>
void launch_round(const RowsShape& shape, const SumRows& sums, int32_t members, float scale,
                  const StridedRows& result, cudaStream_t stream) {
  round_kernel<Element>
      <<<block_count(shape, rows_of_round_block(sums.dim)), kRowThreads, 0, stream>>>(
          shape, sums, sums.dim / sums.planes, members, scale, result);
  LACE_CUDA(cudaGetLastError());
}

}  // namespace lace::cuda
