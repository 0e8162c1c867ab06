#pragma once

#include <cstdint>

#include "kernels/cuda/add_global.cuh"
#include "kernels/cuda/pairs.cuh"

// Rows of fp32 sums in global memory, in the order that backward_rows.h tells. The functions move
// one of the two rows (r) that a thread holds of an accumulator [64][kCount · 2]; `row` is where
// the row begins.

namespace lace::sm90 {

template <int kCount>
__device__ void store_sums(float* row, const float (&values)[kCount], int r, int lane) {
#pragma unroll
  for (int m = 0; m < kCount / 8; ++m) {
    __stcg(reinterpret_cast<float4*>(row + 16 * m) + lane % 4,
           make_float4(values[8 * m + 2 * r], values[8 * m + 2 * r + 1], values[8 * m + 4 + 2 * r],
                       values[8 * m + 5 + 2 * r]));
  }
}

// Adds, in no order that repeats.
template <int kCount>
__device__ void add_sums(float* row, const float (&values)[kCount], int r, int lane) {
#pragma unroll
  for (int m = 0; m < kCount / 8; ++m) {
    cuda::add_global(row + 16 * m + lane % 4 * 4,
                     make_float4(values[8 * m + 2 * r], values[8 * m + 2 * r + 1],
                                 values[8 * m + 4 + 2 * r], values[8 * m + 5 + 2 * r]));
  }
}

template <int kCount>
__device__ void add_halves(const void* high_row, const void* low_row, float (&values)[kCount],
                           int r, int lane) {
#pragma unroll
  for (int m = 0; m < kCount / 8; ++m) {
    const int at = 4 * m + lane % 4;
    const float4 x = cuda::join_halves(__ldcg(static_cast<const uint2*>(high_row) + at),
                                       __ldcg(static_cast<const uint2*>(low_row) + at));
    values[8 * m + 2 * r] += x.x, values[8 * m + 2 * r + 1] += x.y;
    values[8 * m + 4 + 2 * r] += x.z, values[8 * m + 5 + 2 * r] += x.w;
  }
}

template <int kCount>
__device__ void store_halves(void* high_row, void* low_row, const float (&values)[kCount], int r,
                             int lane) {
#pragma unroll
  for (int m = 0; m < kCount / 8; ++m) {
    const int at = 4 * m + lane % 4;
    const uint32_t a = __float_as_uint(values[8 * m + 2 * r]);
    const uint32_t b = __float_as_uint(values[8 * m + 2 * r + 1]);
    const uint32_t c = __float_as_uint(values[8 * m + 4 + 2 * r]);
    const uint32_t d = __float_as_uint(values[8 * m + 5 + 2 * r]);
    __stcg(static_cast<uint2*>(high_row) + at,
           make_uint2(__byte_perm(a, b, 0x7632), __byte_perm(c, d, 0x7632)));
    __stcg(static_cast<uint2*>(low_row) + at,
           make_uint2(__byte_perm(a, b, 0x5410), __byte_perm(c, d, 0x5410)));
  }
}

}  // namespace lace::sm90
