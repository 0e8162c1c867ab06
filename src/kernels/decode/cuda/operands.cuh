#pragma once

#include "kernels/decode/cuda/attend.cuh"
#include "kernels/decode/cuda/product.cuh"

namespace lace::cuda::decode {

// What products multiply weights with, brought into shared memory by all threads of a block:
// columns [begin, end) of sequences [first, first + count), and zeros up to the next multiple of
// kChunk; a sequence's `stride` elements after the one before.
struct OperandRows {
  int first = 0, count = 0, begin = 0, end = 0, stride = 0;
};

// The places of a table [rows, width] that a thread takes: number threadIdx.x, then every
// kThreads-th. Divides once, as whole numbers take long to divide.
class TableWalk {
 public:
  __device__ explicit TableWalk(int width)
      : width_(width),
        row_(static_cast<int>(threadIdx.x / static_cast<unsigned>(width))),
        column_(static_cast<int>(threadIdx.x) - row_ * width),
        rows_on_(kThreads / static_cast<unsigned>(width)),
        columns_on_(kThreads - rows_on_ * width) {}

  __device__ int row() const { return row_; }
  __device__ int column() const { return column_; }
  __device__ void next() {
    row_ += rows_on_;
    column_ += columns_on_;
    if (column_ >= width_) column_ -= width_, row_++;
  }

 private:
  int width_, row_, column_, rows_on_, columns_on_;
};

// Of a matrix [batch, width]. kAligned: width is a multiple of 8.
template <bool kAligned, typename T>
__device__ void load_rows(const T* matrix, int width, const OperandRows& rows, T* operands) {
  constexpr int kAtOnce = 8;
  TableWalk from(cover(rows.end - rows.begin, kChunk) * (kChunk / 8)), to = from;
#pragma unroll 1
  while (from.row() < rows.count) {
    uint4 values[kAtOnce];
#pragma unroll
    for (int u = 0; u < kAtOnce; u++, from.next()) {
      values[u] = make_uint4(0, 0, 0, 0);
      const int column = rows.begin + from.column() * 8;
      if (from.row() >= rows.count || column >= rows.end) continue;
      const T* row = matrix + static_cast<int64_t>(rows.first + from.row()) * width + column;
      if constexpr (kAligned) {
        values[u] = __ldcg(reinterpret_cast<const uint4*>(row));
      } else {
        // This launch may have written it.
        values[u] =
            load_some(row, rows.end - column, [](const uint16_t* bits) { return __ldcg(bits); });
      }
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; u++, to.next()) {
      if (to.row() >= rows.count) continue;
      *reinterpret_cast<uint4*>(operands + to.row() * rows.stride + to.column() * 8) = values[u];
    }
  }
}

// What attend() has left, over ranges of keys.
struct AttendedRows {
  const float* sums = nullptr;    // [batch, heads, splits, v_dim]
  const float2* stats = nullptr;  // [batch, heads, splits]
  int heads = 0, splits = 0, v_dim = 0;

  // Four numbers of what attention gives for sequence b, from `column` of all heads' on.
  template <bool kOneRange>
  __device__ float4 result(int b, int column) const {
    const int head = static_cast<int>(static_cast<unsigned>(column) / static_cast<unsigned>(v_dim));
    const int64_t row = (static_cast<int64_t>(b) * heads + head) * splits;
    const float* sum = sums + row * v_dim + (column - head * v_dim);
    if constexpr (kOneRange) {
      return divided(load(sum), __ldcg(stats + row).y);
    } else {
      return joined(sum, stats + row);
    }
  }

 private:
  __device__ static float4 load(const float* from) {
    return __ldcg(reinterpret_cast<const float4*>(from));
  }
  __device__ static float4 divided(const float4& sum, float total) {
    const float inverse = total == 0 ? 0 : 1 / total;  // a query without keys
    return make_float4(sum.x * inverse, sum.y * inverse, sum.z * inverse, sum.w * inverse);
  }
  // Over the ranges, some at once: each load takes as long as many.
  __device__ float4 joined(const float* sum, const float2* stat) const {
    constexpr int kAtOnce = 8;
    float most = -INFINITY, total = 0;
    float4 out = make_float4(0, 0, 0, 0);
#pragma unroll 1
    for (int first = 0; first < splits; first += kAtOnce) {
      float2 of_split[kAtOnce];
      float4 part[kAtOnce];
      float now = most;
#pragma unroll
      for (int u = 0; u < kAtOnce; u++) {
        of_split[u] = make_float2(-INFINITY, 0);
        part[u] = make_float4(0, 0, 0, 0);
        if (first + u >= splits) continue;
        of_split[u] = __ldcg(stat + first + u);
        part[u] = load(sum + (first + u) * v_dim);
      }
#pragma unroll
      for (int u = 0; u < kAtOnce; u++) now = fmaxf(now, of_split[u].x);
      const float shift = finite_shift(now), kept = power_of_two(most - shift);
      most = now;
      total *= kept;
      out.x *= kept, out.y *= kept, out.z *= kept, out.w *= kept;
#pragma unroll
      for (int u = 0; u < kAtOnce; u++) {
        const float weight = power_of_two(of_split[u].x - shift);
        total += of_split[u].y * weight;
        out.x += part[u].x * weight, out.y += part[u].y * weight;
        out.z += part[u].z * weight, out.w += part[u].w * weight;
      }
    }
    return divided(out, total);
  }
};

template <bool kOneRange, typename T>
__device__ void load_ranges(const AttendedRows& attended, const OperandRows& rows, T* operands) {
  constexpr int kAtOnce = kOneRange ? 8 : 1;
  TableWalk from(cover(rows.end - rows.begin, kChunk) * (kChunk / 4)), to = from;
#pragma unroll 1
  while (from.row() < rows.count) {
    float4 values[kAtOnce];
#pragma unroll
    for (int u = 0; u < kAtOnce; u++, from.next()) {
      values[u] = make_float4(0, 0, 0, 0);
      const int column = rows.begin + from.column() * 4;
      if (from.row() >= rows.count || column >= rows.end) continue;
      values[u] = attended.result<kOneRange>(rows.first + from.row(), column);
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; u++, to.next()) {
      if (to.row() >= rows.count) continue;
      *reinterpret_cast<uint2*>(operands + to.row() * rows.stride + to.column() * 4) =
          make_uint2(pack<T>(values[u].x, values[u].y), pack<T>(values[u].z, values[u].w));
    }
  }
}

template <typename T>
__device__ void load_attended(const AttendedRows& attended, const OperandRows& rows, T* operands) {
  if (attended.splits == 1) {
    load_ranges<true>(attended, rows, operands);
  } else {
    load_ranges<false>(attended, rows, operands);
  }
}

}  // namespace lace::cuda::decode
