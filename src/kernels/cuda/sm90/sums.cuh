#pragma once

#include <cstdint>

// Rows of fp32 sums in global memory, in the order that backward_params.h tells. The functions move
// one of the two rows (r) that a thread holds of an accumulator [64][kCount · 2]; `row` is where
// the row begins.

namespace lace::sm90 {

template <int kCount>
__device__ void load_sums(const float* row, float (&values)[kCount], int r, int lane) {
#pragma unroll
  for (int m = 0; m < kCount / 8; ++m) {
    const float4 x = __ldcg(reinterpret_cast<const float4*>(row + 16 * m) + lane % 4);
    values[8 * m + 2 * r] = x.x, values[8 * m + 2 * r + 1] = x.y;
    values[8 * m + 4 + 2 * r] = x.z, values[8 * m + 5 + 2 * r] = x.w;
  }
}

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
    asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(
                     row + 16 * m + lane % 4 * 4),
                 "f"(values[8 * m + 2 * r]), "f"(values[8 * m + 2 * r + 1]),
                 "f"(values[8 * m + 4 + 2 * r]), "f"(values[8 * m + 5 + 2 * r])
                 : "memory");
  }
}

}  // namespace lace::sm90
