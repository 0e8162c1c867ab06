#pragma once

#include <cstdint>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace lace::cuda {

// Two elements of 16 bits in a register, the low one first.

template <typename Element>
__device__ uint32_t pack(float low, float high) {
  if constexpr (std::is_same_v<Element, __half>) {
    const __half2 pair = __floats2half2_rn(low, high);
    return reinterpret_cast<const uint32_t&>(pair);
  } else {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return reinterpret_cast<const uint32_t&>(pair);
  }
}

template <typename Element>
__device__ float2 unpack(uint32_t pair) {
  if constexpr (std::is_same_v<Element, __half>) {
    return __half22float2(reinterpret_cast<const __half2&>(pair));
  } else {
    return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(pair));
  }
}

// Four values of 32 bits of their halves of 16 bits.
__device__ inline float4 join_halves(uint2 high, uint2 low) {
  return make_float4(__uint_as_float(__byte_perm(low.x, high.x, 0x5410)),
                     __uint_as_float(__byte_perm(low.x, high.x, 0x7632)),
                     __uint_as_float(__byte_perm(low.y, high.y, 0x5410)),
                     __uint_as_float(__byte_perm(low.y, high.y, 0x7632)));
}

}  // namespace lace::cuda
