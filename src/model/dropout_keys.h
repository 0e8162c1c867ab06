#pragma once

#include <cstdint>
#include <vector>

#include "kernels/elementwise/dropout.h"

namespace lace::model {

// The branches of a block that are dropped.
enum DropoutBranch { kAttentionBranch, kFeedForwardBranch, kDropoutBranches };

// The keys of all masks of one pass, [layers, kDropoutBranches].
inline std::vector<uint64_t> dropout_keys(uint64_t seed, int64_t step, int64_t micro_batch,
                                          int64_t layers) {
  std::vector<uint64_t> keys;
  for (int64_t layer = 0; layer < layers; ++layer) {
    for (int64_t branch = 0; branch < kDropoutBranches; ++branch) {
      uint64_t key = splitmix64(seed);
      for (const int64_t part : {step, micro_batch, layer, branch}) {
        key = splitmix64(key ^ static_cast<uint64_t>(part));
      }
      keys.push_back(key);
    }
  }
  return keys;
}

// p in [0, 1); `key` is one of dropout_keys in the memory of the device that computes.
inline Dropout make_dropout(double p, const uint64_t* key) {
  if (p == 0) return {};
  return {key, static_cast<uint32_t>(p * 0x1p32), static_cast<float>(1 / (1 - p))};
}

}  // namespace lace::model
