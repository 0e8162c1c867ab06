#pragma once

#include <cstdint>

#include "core/mix64.h"

namespace lace {

// A dropout mask that needs no memory: element (row, column) is kept iff
//   hash(key, row, column) >= threshold, uniform over 32 bits,
// and what is kept is multiplied by `scale` = 1 / (1 − p). Any pass that asks again, in any order,
// on any number of threads and on any device, gets the same mask.
struct Dropout {
  const uint64_t* key = nullptr;  // in the memory of the device that computes
  uint32_t threshold = 0;         // 0: nothing is dropped, and there need not be a key
  float scale = 1;
};

// The next number of SplitMix64 after state x.
constexpr uint64_t splitmix64(uint64_t x) { return mix64(x + kMix64Step); }

constexpr uint64_t dropout_row_key(uint64_t key, int64_t row) {
  return splitmix64(key ^ static_cast<uint64_t>(row));
}

// The hash of one element, for one column (uint32_t) or a vector of columns: two rounds of
// multiply and shift, each keyed by half of the row's key.
template <typename Columns>
constexpr Columns dropout_hash(uint64_t row_key, Columns column) {
  Columns x = column * 0x9e3779b1u ^ static_cast<uint32_t>(row_key);
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x ^= static_cast<uint32_t>(row_key >> 32);
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

}  // namespace lace
