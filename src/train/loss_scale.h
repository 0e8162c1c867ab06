#pragma once

#include <algorithm>
#include <cmath>

#include "train/adam.h"

namespace lace::train {

// Dynamic scaling of the loss for fp16, as the paper's authors do it: starts at 2¹⁶, grows by
// 1.0003466 (twice in 2000) a good step, halves at a step with gradients that are not finite, never
// below 2¹⁰.
struct LossScale {
  static constexpr double kStart = 65536, kGrowth = 1.0003466, kFloor = 1024;

  double value = kStart;
  void grow() { value *= kGrowth; }
  void halve() { value = std::max(kFloor, value / 2); }
};

// One update by `adam` from gradients of a loss that was multiplied by scale->value (by 1 without a
// scale). Returns the norm that was clipped, unscaled. Where the norm is not finite: with a scale,
// the gradients that are not finite count as 0, the update is made all the same, and the scale
// halves; without, throws lace::Error before the parameters change: the gradients are the caller's
// to drop.
inline double apply_gradients(Adam& adam, LossScale* scale, double learning_rate) {
  const double factor = scale ? scale->value : 1.0;
  double norm = adam.gradient_norm(factor);
  const bool overflow = !std::isfinite(norm);
  LACE_CHECK(scale || !overflow, "[train] the gradients' norm is ", norm,
             ": lower the learning rate or clip harder");
  if (overflow) {
    adam.zero_non_finite();
    norm = adam.gradient_norm(factor);
  }
  adam.step(learning_rate, norm, factor);
  if (scale) overflow ? scale->halve() : scale->grow();
  return norm;
}

}  // namespace lace::train
