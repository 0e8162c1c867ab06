#pragma once

#include "kernels/decode/cuda/machine.cuh"
#include "kernels/decode/cuda/tasks.h"

namespace lace::cuda::decode {

// Products of weights [rows, in] with the operands of some sequences, by mma.sync: A is a tile of
// weights, B the operands. The columns of a chunk are dealt to mma's k so that a lane's share of a
// row is 16 bytes side by side, of A and of B: lane (g, t) = (lane / 4, lane mod 4) has columns
// 8t … 8t + 7 of row g, and gives the first four to one mma and the others to the next.

// The weights of a lane for one chunk: of row g and of row g + 8 of a tile.
struct Fragment {
  uint4 low, high;
};

constexpr int kAhead = 4;  // fragments that a lane holds at once

// A product, and what of it is whose.
template <typename T>
struct Product {
  const T* weight = nullptr;
  int in = 0;
  ProductTasks tasks;

  __device__ int items() const { return tasks.tiles * tasks.splits; }
  __device__ int first_column(int split) const { return split * tasks.split_columns; }
  __device__ int end_column(int split) const {
    return least(in, first_column(split) + tasks.split_columns);
  }
};

// `count` elements from `from` on, the first eight, by load(pointer to 16 bits); the others are 0.
template <typename T, typename Load>
__device__ uint4 load_some(const T* from, int count, const Load& load) {
  const auto* bits = reinterpret_cast<const uint16_t*>(from);
  uint32_t words[4];
#pragma unroll
  for (int w = 0; w < 4; w++) {
    const uint32_t low = 2 * w < count ? load(bits + 2 * w) : 0;
    const uint32_t high = 2 * w + 1 < count ? load(bits + 2 * w + 1) : 0;
    words[w] = low | high << 16;
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// The same of weights. kAligned: they begin at a multiple of 16 bytes, and there are eight.
template <bool kAligned, typename T>
__device__ uint4 load_weights(const T* from, int count) {
  if constexpr (kAligned) {
    return __ldg(reinterpret_cast<const uint4*>(from));
  } else {
    return load_some(from, count, [](const uint16_t* bits) { return __ldg(bits); });
  }
}

// The fragments of this lane's warp number first, first + 1, … of a tile and range of columns: warp
// w has chunks w, w + kWarps, …. kAligned: rows are multiples of 8 columns.
template <bool kAligned, typename T>
__device__ void load_fragments(const Product<T>& product, const Tile& tile, int split, int first,
                               Fragment (&fragments)[kAhead]) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, t = lane % 4;
  const int end = product.end_column(split);
  // Rows that a tile lacks are others of it: their sums are left out.
  const int low = tile.low + least(g, tile.low_count - 1);
  const int high = g < tile.high_count ? tile.high + g : low;
  const T* low_row = product.weight + static_cast<int64_t>(low) * product.in;
  const T* high_row = product.weight + static_cast<int64_t>(high) * product.in;
#pragma unroll
  for (int i = 0; i < kAhead; i++) {
    const int column = product.first_column(split) + (warp + (first + i) * kWarps) * kChunk + 8 * t;
    if (column < end) {
      fragments[i] = {load_weights<kAligned>(low_row + column, end - column),
                      load_weights<kAligned>(high_row + column, end - column)};
    } else {
      fragments[i] = {make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0)};
    }
  }
}

// sums[n] of 16 rows and 8 sequences from 8n on, over this warp's chunks of the range `split`.
// fragments: the first ones, if they are fetched. operands: of the range's columns [8 · kEights,
// stride], zero up to the next multiple of kChunk.
template <bool kAligned, typename T, int kEights>
__device__ void multiply(const Product<T>& product, const Tile& tile, int split, const T* operands,
                         int stride, bool fetched, Fragment (&fragments)[kAhead],
                         float (&sums)[kEights][4]) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, t = lane % 4;
  const int chunks = cover(product.end_column(split) - product.first_column(split), kChunk);
#pragma unroll
  for (int n = 0; n < kEights; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) sums[n][i] = 0;
  }
  const T* own = operands + g * stride + 8 * t;
#pragma unroll 1
  for (int first = 0; warp + first * kWarps < chunks; first += kAhead) {
    if (first > 0 || !fetched) load_fragments<kAligned>(product, tile, split, first, fragments);
#pragma unroll
    for (int i = 0; i < kAhead; i++) {
      const int chunk = warp + (first + i) * kWarps;
      if (chunk >= chunks) break;
      const uint4 low = fragments[i].low, high = fragments[i].high;
#pragma unroll
      for (int n = 0; n < kEights; n++) {
        const uint4 x = *reinterpret_cast<const uint4*>(own + n * 8 * stride + chunk * kChunk);
        multiply_add<T>(sums[n], low.x, high.x, low.y, high.y, x.x, x.y);
        multiply_add<T>(sums[n], low.z, high.z, low.w, high.w, x.z, x.w);
      }
    }
  }
}

// Stores a warp's sums where the block's other warps store theirs: [kWarps, 16, column_stride].
template <int kEights>
__device__ void store_sums(const float (&sums)[kEights][4], float* scratch) {
  constexpr int kStride = column_stride(8 * kEights);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  float* to = scratch + (warp * kTileRows + lane / 4) * kStride + lane % 4 * 2;
#pragma unroll
  for (int n = 0; n < kEights; n++) {
    *reinterpret_cast<float2*>(to + n * 8) = make_float2(sums[n][0], sums[n][1]);
    *reinterpret_cast<float2*>(to + 8 * kStride + n * 8) = make_float2(sums[n][2], sums[n][3]);
  }
}

// Of one row of the tile and one sequence, over all warps, always in the same order.
template <int kEights>
__device__ float sum_of(const float* scratch, int row, int sequence) {
  constexpr int kStride = column_stride(8 * kEights);
  float sum = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; warp++) {
    sum += scratch[(warp * kTileRows + row) * kStride + sequence];
  }
  return sum;
}

}  // namespace lace::cuda::decode
