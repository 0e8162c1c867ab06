#pragma once

#include <cstdint>
#include <initializer_list>

#include "core/mix64.h"

namespace lace::model {

// A dropout mask that needs no memory: element (row, column) is kept iff
//   hash(key, row, column) >= threshold, uniform over 32 bits,
// and what is kept is multiplied by `scale` = 1 / (1 − p). Any pass that asks again, in any order
// and on any number of threads, gets the same mask.
struct Dropout {
  uint64_t key = 0;
  uint32_t threshold = 0;  // 0: nothing is dropped
  float scale = 1;
};

// The next number of SplitMix64 after state x.
inline uint64_t splitmix64(uint64_t x) { return mix64(x + kMix64Step); }

// p in [0, 1).
inline Dropout make_dropout(double p, uint64_t seed, int64_t step, int64_t micro_batch,
                            int64_t layer, int64_t branch) {
  Dropout dropout;
  if (p == 0) return dropout;
  uint64_t key = splitmix64(seed);
  for (const int64_t part : {step, micro_batch, layer, branch}) {
    key = splitmix64(key ^ static_cast<uint64_t>(part));
  }
  dropout.key = key;
  dropout.threshold = static_cast<uint32_t>(p * 0x1p32);
  dropout.scale = static_cast<float>(1 / (1 - p));
  return dropout;
}

inline uint64_t dropout_row_key(const Dropout& dropout, int64_t row) {
  return splitmix64(dropout.key ^ static_cast<uint64_t>(row));
}

// The hash of one element, for one column (uint32_t) or a vector of columns: two rounds of
// multiply and shift, each keyed by half of the row's key.
template <typename Columns>
inline __attribute__((always_inline)) Columns dropout_hash(uint64_t row_key, Columns column) {
  Columns x = column * 0x9e3779b1u ^ static_cast<uint32_t>(row_key);
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x ^= static_cast<uint32_t>(row_key >> 32);
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

}  // namespace lace::model
