#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

namespace lace::cpu {

// The scale that forward and backward both multiply logits with: their one float nearest to
// `scale`, 0 where that is subnormal (less than 10⁻³⁷, which no logit of finite rows feels).
inline float logit_scale(double scale) {
  const float nearest = static_cast<float>(scale);
  return std::fabs(nearest) < std::numeric_limits<float>::min() ? 0.0f : nearest;
}

// The same of what a softcap takes the tanh of, scale / softcap, which no float may hold.
inline float capped_scale(double scale, double softcap) {
  constexpr double kMost = std::numeric_limits<float>::max();
  return logit_scale(std::clamp(scale / softcap, -kMost, kMost));
}

}  // namespace lace::cpu
