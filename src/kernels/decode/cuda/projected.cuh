#pragma once

#include "kernels/decode/cuda/machine.cuh"
#include "kernels/elementwise/cuda/vectors.cuh"

namespace lace::cuda::decode {

// What a step of one sequence and one of several do with the numbers that the fused projection
// gives: the pair of a row `low` and a row `high` of it.

__device__ __forceinline__ void turn_pair(float& low, float& high, float cos, float sin) {
  const float from = low;
  low = from * cos - high * sin;
  high = high * cos + from * sin;
}

// Into the row of a cache at `row`, at `column` of the key or value and `apart` further on.
// both: there is the second one, which of keys there always is.
template <typename T>
__device__ __forceinline__ void store_pair(std::byte* row, bool value, int qk_dim, int column,
                                           int apart, bool both, float low, float high) {
  if (value) {
    T* to = reinterpret_cast<T*>(row + static_cast<int64_t>(qk_dim) * 4) + column;
    to[0] = elementwise::from_float<T>(low);
    if (both) to[apart] = elementwise::from_float<T>(high);
  } else {
    float* to = reinterpret_cast<float*>(row) + column;
    to[0] = low;
    to[apart] = high;
  }
}

}  // namespace lace::cuda::decode
