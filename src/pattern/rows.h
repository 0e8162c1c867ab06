#pragma once

#include <cstdint>

#include "lace/pattern.h"

namespace lace::pattern {

// Sets bit (key − begin) of `bits` for every live key of `query` in [begin, end), without touching
// the other bits: a row of the pattern at once, in time that grows with its live keys (and, for
// intersections, with the words between the first and the last key that they may have).
//   bits  ⌈(end − begin) / 64⌉ words
// 0 <= head < heads; query in [0, k_len); 0 <= begin <= end <= k_len.
void add_row(const BoundPattern& pattern, int64_t head, int64_t query, int64_t begin, int64_t end,
             uint64_t* bits);

}  // namespace lace::pattern
