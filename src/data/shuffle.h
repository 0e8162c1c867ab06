#pragma once

#include <bit>
#include <cstdint>

#include "data/random.h"

namespace lace {

// A random permutation of 0 … size − 1 that is computed element by element, without memory: the
// swap-or-not shuffle (Hoang, Morris, Rogaway, CRYPTO 2012). In each round every x has a partner,
// (key − x) mod size, and one coin for both decides whether they change places. 6 log₂(size) rounds
// are what the paper proves near-uniformity for; 24 more serve the smallest sizes.
class Shuffle {
 public:
  // size in [1, 2^63).
  Shuffle(int64_t size, uint64_t seed)
      : size_(static_cast<uint64_t>(size)),
        seed_(seed),
        rounds_(24 + 6 * static_cast<uint64_t>(std::bit_width(size_))) {}

  // Where `index`, in [0, size), goes.
  int64_t operator()(int64_t index) const {
    auto x = static_cast<uint64_t>(index);
    for (uint64_t round = 0; round < rounds_; ++round) {
      const uint64_t bits = mix64(seed_ + kMix64Step * (round + 1));
      const auto key = static_cast<uint64_t>(random_below(bits, static_cast<int64_t>(size_)));
      const uint64_t partner = key >= x ? key - x : key + size_ - x;
      const uint64_t pair = x > partner ? x : partner;
      if (mix64(bits ^ mix64(pair + kMix64Step)) >> 63) x = partner;
    }
    return static_cast<int64_t>(x);
  }

 private:
  uint64_t size_, seed_, rounds_;
};

}  // namespace lace
