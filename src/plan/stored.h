#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "lace/error.h"

namespace lace::plan {

// A count, or a place in one of a plan's arrays, as the plan stores it.
// Throws lace::Error naming `what` if there are more than fit.
template <typename Count>
int32_t stored(Count count, const char* what) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  LACE_CHECK(static_cast<int64_t>(count) <= kMost, "[compile] a plan must have at most ", kMost,
             " ", what, ", got ", count, ": use larger tiles or a shorter sequence");
  return static_cast<int32_t>(count);
}

}  // namespace lace::plan
