#pragma once

#include "kernels/decode/cuda/attend.cuh"

namespace lace::cuda::decode {

// What products multiply weights with, brought into shared memory by all threads of a block:
// columns [begin, end) of sequences [first, first + count), and zeros up to the next multiple of
// kChunk; a sequence's `stride` elements after the one before.
struct OperandRows {
  int first = 0, count = 0, begin = 0, end = 0, stride = 0;
};

// `count` elements that this launch may have written, the first eight; the others are 0.
template <typename T>
__device__ uint4 load_some(const T* from, int count) {
  const auto* bits = reinterpret_cast<const uint16_t*>(from);
  uint32_t words[4];
#pragma unroll
  for (int w = 0; w < 4; w++) {
    const uint32_t low = 2 * w < count ? __ldcg(bits + 2 * w) : 0;
    const uint32_t high = 2 * w + 1 < count ? __ldcg(bits + 2 * w + 1) : 0;
    words[w] = low | high << 16;
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// Of a matrix [batch, width]. kAligned: width is a multiple of 8.
template <bool kAligned, typename T>
__device__ void load_rows(const T* matrix, int width, const OperandRows& rows, T* operands) {
  constexpr int kAtOnce = 8;
  const int vectors = cover(rows.end - rows.begin, kChunk) * (kChunk / 8);
  const int all = vectors * rows.count;
#pragma unroll 1
  for (int from = static_cast<int>(threadIdx.x); from < all; from += kThreads * kAtOnce) {
    uint4 values[kAtOnce];
#pragma unroll
    for (int u = 0; u < kAtOnce; u++) {
      const int i = from + u * kThreads;
      values[u] = make_uint4(0, 0, 0, 0);
      if (i >= all) break;
      const int column = rows.begin + i % vectors * 8;
      const T* row = matrix + static_cast<int64_t>(rows.first + i / vectors) * width + column;
      if constexpr (kAligned) {
        if (column < rows.end) values[u] = __ldcg(reinterpret_cast<const uint4*>(row));
      } else {
        values[u] = load_some(row, rows.end - column);
      }
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; u++) {
      const int i = from + u * kThreads;
      if (i >= all) break;
      *reinterpret_cast<uint4*>(operands + i / vectors * rows.stride + i % vectors * 8) = values[u];
    }
  }
}

// What attend() has left, over ranges of keys.
struct AttendedRows {
  const float* sums = nullptr;    // [batch, heads, splits, v_dim]
  const float2* stats = nullptr;  // [batch, heads, splits]
  int heads = 0, splits = 0, v_dim = 0;

  // Two numbers of what attention gives for sequence b, from `column` of all heads' on.
  __device__ float2 result(int b, int column) const {
    const int64_t row = (static_cast<int64_t>(b) * heads + column / v_dim) * splits;
    const float2* stat = stats + row;
    const float* sum = sums + row * v_dim + column % v_dim;
    float most = -INFINITY, total = 0;
    float2 out = make_float2(0, 0);
#pragma unroll 8
    for (int split = 0; split < splits; split++) {
      const float2 of_split = __ldcg(stat + split);
      const float2 part = __ldcg(reinterpret_cast<const float2*>(sum + split * v_dim));
      const float now = fmaxf(most, of_split.x), shift = finite_shift(now);
      const float kept = power_of_two(most - shift), weight = power_of_two(of_split.x - shift);
      most = now;
      total = total * kept + of_split.y * weight;
      out.x = out.x * kept + part.x * weight;
      out.y = out.y * kept + part.y * weight;
    }
    return divided(out, total);
  }

  // The same where there is one range.
  __device__ float2 only_result(int b, int column) const {
    const int64_t row = static_cast<int64_t>(b) * heads + column / v_dim;
    const float total = __ldcg(stats + row).y;
    return divided(__ldcg(reinterpret_cast<const float2*>(sums + row * v_dim + column % v_dim)),
                   total);
  }

  __device__ static float2 divided(float2 sum, float total) {
    const float inverse = total == 0 ? 0 : 1 / total;  // a query without keys
    return make_float2(sum.x * inverse, sum.y * inverse);
  }
};

// result(sequence, column) of all pairs of columns, kAtOnce a thread at once.
template <int kAtOnce, typename T, typename Result>
__device__ void load_pairs(const OperandRows& rows, T* operands, const Result& result) {
  const int pairs = cover(rows.end - rows.begin, kChunk) * (kChunk / 2), all = pairs * rows.count;
#pragma unroll 1
  for (int from = static_cast<int>(threadIdx.x); from < all; from += kThreads * kAtOnce) {
    float2 values[kAtOnce];
#pragma unroll
    for (int u = 0; u < kAtOnce; u++) {
      const int i = from + u * kThreads, column = rows.begin + i % pairs * 2;
      values[u] = make_float2(0, 0);
      if (i < all && column < rows.end) values[u] = result(rows.first + i / pairs, column);
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; u++) {
      const int i = from + u * kThreads;
      if (i >= all) break;
      *reinterpret_cast<uint32_t*>(operands + i / pairs * rows.stride + i % pairs * 2) =
          pack<T>(values[u].x, values[u].y);
    }
  }
}

template <typename T>
__device__ void load_attended(const AttendedRows& attended, const OperandRows& rows, T* operands) {
  if (attended.splits == 1) {
    load_pairs<8>(rows, operands,
                  [&](int b, int column) { return attended.only_result(b, column); });
  } else {
    load_pairs<1>(rows, operands, [&](int b, int column) { return attended.result(b, column); });
  }
}

}  // namespace lace::cuda::decode
