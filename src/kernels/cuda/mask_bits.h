#pragma once

#include <cstdint>
#include <vector>

#include "plan/plan.h"

namespace lace::cuda {

// The bits of a Mask by owners, since a thread of a kernel wants all others of a few owners: bit
// (owner e, other f) is words[e · words_per_owner + f / 64] >> (f % 64).
struct MaskBits {
  int32_t words_per_owner = 0;
  std::vector<uint64_t> words;
};
MaskBits bits_by_owner(const Mask& mask);

}  // namespace lace::cuda
