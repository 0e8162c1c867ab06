#pragma once

#include <cstdint>

#include "core/mix64.h"

namespace lace {

// A counter-based generator: the same (seed, stream, counter) always gives the same 64 bits, in any
// order of asking.
inline uint64_t random_bits(uint64_t seed, uint64_t stream, uint64_t counter) {
  const uint64_t key = mix64(seed + kMix64Step * (stream + 1));
  return mix64(mix64(key + kMix64Step * (counter + 1)) ^ key);
}

// Uniform in [0, bound), bound >= 1.
inline int64_t random_below(uint64_t bits, int64_t bound) {
  return static_cast<int64_t>(
      (static_cast<unsigned __int128>(bits) * static_cast<uint64_t>(bound)) >> 64);
}

// Uniform in [0, 1).
inline double random_unit(uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1.0p-53; }

}  // namespace lace
