#pragma once

#include "kernels/decode/cuda/machine.cuh"

namespace lace::cuda::decode {

// What blocks pass to one another without a barrier: a word of 64 bits is 32 bits of a value and
// the stamp of the layer that it is of. Who wants the value reads the word until the stamp is the
// one awaited, so that neither a fence, nor a counter, nor a second read lies between the two. The
// stamp before was that of the layer before: a word is written once a layer.

__device__ inline uint64_t stamped(uint32_t value, uint32_t stamp) {
  return static_cast<uint64_t>(stamp) << 32 | value;
}
__device__ inline uint32_t bits_of(float value) { return reinterpret_cast<const uint32_t&>(value); }
__device__ inline float number_of(uint32_t bits) { return reinterpret_cast<const float&>(bits); }

// Two words side by side.
class StampedPair {
 public:
  __device__ void load(const uint64_t* from) { load_words(from, first_, second_); }
  // Reads them again until they are of `stamp`.
  __device__ void await(const uint64_t* from, uint32_t stamp) {
#pragma unroll 1
    while (static_cast<uint32_t>(first_ >> 32) != stamp ||
           static_cast<uint32_t>(second_ >> 32) != stamp) {
      load(from);
    }
  }
  __device__ uint32_t first() const { return static_cast<uint32_t>(first_); }
  __device__ uint32_t second() const { return static_cast<uint32_t>(second_); }

 private:
  uint64_t first_, second_;
};

}  // namespace lace::cuda::decode
