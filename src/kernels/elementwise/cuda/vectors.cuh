#pragma once

#include <cstdint>

#include "kernels/cuda/pairs.cuh"
#include "kernels/elementwise/dropout.h"

namespace lace::cuda::elementwise {

__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ inline float to_float(float x) { return x; }

template <typename T>
__device__ T from_float(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(x);
  } else {
    return __float2bfloat16_rn(x);
  }
}

// Which of `count` rows, or the like, is worked on as number i: the last one first. The product
// before has left its last rows in L2; the one after finds the first ones there.
__device__ inline int64_t from_the_end(int64_t i, int64_t count) { return count - 1 - i; }

// kWidth neighbouring elements as they lie in memory: 1, or so many that begin at a multiple of
// their size.
template <typename T, int kWidth>
struct Vector;

template <typename T>
struct Vector<T, 1> {
  T bits;
  __device__ static Vector load(const T* from) { return {*from}; }
  __device__ static Vector zeros() { return {from_float<T>(0)}; }
  __device__ void store(T* to) const { *to = bits; }
  __device__ void unpack_to(float (&values)[1]) const { values[0] = to_float(bits); }
  __device__ static Vector packed(const float (&values)[1]) { return {from_float<T>(values[0])}; }
};

template <typename T>
struct Vector<T, 4> {
  uint2 bits;
  __device__ static Vector load(const T* from) { return {*reinterpret_cast<const uint2*>(from)}; }
  __device__ static Vector zeros() { return {make_uint2(0, 0)}; }
  __device__ void store(T* to) const { *reinterpret_cast<uint2*>(to) = bits; }
  __device__ float4 unpacked() const {
    const float2 low = unpack<T>(bits.x), high = unpack<T>(bits.y);
    return make_float4(low.x, low.y, high.x, high.y);
  }
  __device__ static Vector packed(const float4& values) {
    return {make_uint2(pack<T>(values.x, values.y), pack<T>(values.z, values.w))};
  }
};

template <typename T>
struct Vector<T, 8> {
  uint4 bits;
  __device__ static Vector load(const T* from) { return {*reinterpret_cast<const uint4*>(from)}; }
  __device__ static Vector zeros() { return {make_uint4(0, 0, 0, 0)}; }
  __device__ void store(T* to) const { *reinterpret_cast<uint4*>(to) = bits; }
  __device__ void unpack_to(float (&values)[8]) const {
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int w = 0; w < 4; w++) {
      const float2 pair = unpack<T>(words[w]);
      values[2 * w] = pair.x, values[2 * w + 1] = pair.y;
    }
  }
  __device__ static Vector packed(const float (&values)[8]) {
    return {make_uint4(pack<T>(values[0], values[1]), pack<T>(values[2], values[3]),
                       pack<T>(values[4], values[5]), pack<T>(values[6], values[7]))};
  }
};

template <>
struct Vector<float, 4> {
  float4 values;
  __device__ static Vector load(const float* from) {
    return {*reinterpret_cast<const float4*>(from)};
  }
  __device__ static Vector zeros() { return {make_float4(0, 0, 0, 0)}; }
  __device__ void store(float* to) const { *reinterpret_cast<float4*>(to) = values; }
  __device__ const float4& unpacked() const { return values; }
  __device__ static Vector packed(const float4& values) { return {values}; }
};

__device__ inline float4 load_floats(const float* from) {
  return Vector<float, 4>::load(from).values;
}
__device__ inline void store_floats(float* to, const float4& values) {
  Vector<float, 4>{values}.store(to);
}

// Stores four elements and returns them as they are rounded.
template <typename R>
__device__ float4 store_four(R* to, const float4& values) {
  const auto rounded = Vector<R, 4>::packed(values);
  rounded.store(to);
  return rounded.unpacked();
}

// The mask of one row.
class RowDropout {
 public:
  __device__ RowDropout(const Dropout& dropout, int64_t row)
      : key_(dropout.threshold != 0 ? dropout_row_key(*dropout.key, row) : 0),
        threshold_(dropout.threshold),
        scale_(dropout.scale) {}
  __device__ float operator()(float value, uint32_t column) const {
    if (threshold_ == 0) return value;
    return dropout_hash<uint32_t>(key_, column) >= threshold_ ? value * scale_ : 0.0f;
  }
  // For columns [column, column + 4).
  __device__ float4 operator()(const float4& values, uint32_t column) const {
    if (threshold_ == 0) return values;
    return make_float4((*this)(values.x, column), (*this)(values.y, column + 1),
                       (*this)(values.z, column + 2), (*this)(values.w, column + 3));
  }

 private:
  uint64_t key_;
  uint32_t threshold_;
  float scale_;
};

// Sums of pairs over the kLanes threads that share a row: a warp, or all threads of a block.
template <int kLanes>
class RowSums {
 public:
  __device__ float2 operator()(float2 value) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
      value.x += __shfl_xor_sync(~0u, value.x, lanes);
      value.y += __shfl_xor_sync(~0u, value.y, lanes);
    }
    if constexpr (kLanes > 32) {
      constexpr int kWarps = kLanes / 32;
      __shared__ float2 sums[2][kWarps];
      // Two in turn: whoever writes one again has met all that read it at the barrier in between.
      turn_ ^= 1;
      if (threadIdx.x % 32 == 0) sums[turn_][threadIdx.x / 32] = value;
      __syncthreads();
      value = sums[turn_][0];
#pragma unroll
      for (int w = 1; w < kWarps; w++) {
        value.x += sums[turn_][w].x;
        value.y += sums[turn_][w].y;
      }
    }
    return value;
  }
  __device__ float operator()(float value) { return (*this)(make_float2(value, 0)).x; }

 private:
  int turn_ = 0;
};

}  // namespace lace::cuda::elementwise
