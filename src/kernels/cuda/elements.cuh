#pragma once

#include <cstdint>

namespace lace::cuda {

// Eight elements of 16 bits, from or to anywhere, or a multiple of 16 bytes.

template <typename T>
__device__ uint4 load_elements(const T* from, bool aligned) {
  if (aligned) return __ldg(reinterpret_cast<const uint4*>(from));
  const auto* bits = reinterpret_cast<const uint16_t*>(from);
  uint32_t words[4];
#pragma unroll
  for (int w = 0; w < 4; w++) words[w] = bits[2 * w] | static_cast<uint32_t>(bits[2 * w + 1]) << 16;
  return {words[0], words[1], words[2], words[3]};
}

template <typename T>
__device__ void store_elements(T* to, const uint4& words, bool aligned) {
  if (aligned) {
    *reinterpret_cast<uint4*>(to) = words;
    return;
  }
  const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
  auto* bits = reinterpret_cast<uint16_t*>(to);
#pragma unroll
  for (int w = 0; w < 4; w++) {
    bits[2 * w] = static_cast<uint16_t>(pairs[w]);
    bits[2 * w + 1] = static_cast<uint16_t>(pairs[w] >> 16);
  }
}

}  // namespace lace::cuda
