#pragma once

#include <cstdint>
#include <span>

#include "lace/generate.h"

namespace lace::generate {

// The index that a uniform `unit` in [0, 1) draws from softmax(logits / temperature), cut to top_k
// and top_p. Equal logits rank by index.
int64_t draw(std::span<const float> logits, const SampleOptions& options, double unit);

}  // namespace lace::generate
