#pragma once

#include <cstdint>

#include "lace/pattern.h"

#include "pattern/key_runs.h"

namespace lace::pattern {

// The keys that `query` of `head` attends to, each in one run: what a decoder reads for its next
// row. In time that grows with the runs; a union of sets of different periods, and `mask`, with
// the stretches of keys side by side.
// 0 <= head < pattern.heads(); query in [0, k_len). Throws lace::Error if the pattern is not
// causal: who decodes does not have the keys to come.
KeyRuns live_keys(const BoundPattern& pattern, int64_t head, int64_t query);

}  // namespace lace::pattern
