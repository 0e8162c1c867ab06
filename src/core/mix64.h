#pragma once

#include <cstdint>

namespace lace {

// 2^64 over the golden ratio: the step between the states of SplitMix64.
inline constexpr uint64_t kMix64Step = 0x9e3779b97f4a7c15u;

// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection that mixes all bits; 0 stays.
constexpr uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace lace
