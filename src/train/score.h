#pragma once

#include <cmath>
#include <optional>

namespace lace::train {

// Is a validation's score the lowest so far? NaN and infinities never are.
inline bool is_better(double score, const std::optional<double>& best) {
  return std::isfinite(score) && (!best || score < *best);
}

}  // namespace lace::train
