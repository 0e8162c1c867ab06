#pragma once

#include <cstdint>

namespace lace {

// A counter-based generator: the same (seed, stream, counter) always gives the same 64 bits, in any
// order of asking. Two rounds of the SplitMix64 finaliser over the mixed words.
inline uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

inline uint64_t random_bits(uint64_t seed, uint64_t stream, uint64_t counter) {
  const uint64_t key = mix64(seed + 0x9e3779b97f4a7c15ull * (stream + 1));
  return mix64(mix64(key + 0x9e3779b97f4a7c15ull * (counter + 1)) ^ key);
}

// Uniform in [0, bound), bound >= 1.
inline int64_t random_below(uint64_t bits, int64_t bound) {
  return static_cast<int64_t>(
      (static_cast<unsigned __int128>(bits) * static_cast<uint64_t>(bound)) >> 64);
}

// Uniform in [0, 1).
inline double random_unit(uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1.0p-53; }

}  // namespace lace
