#pragma once

#include <algorithm>

#include "train/adam.h"

namespace lace::train {

// Dynamic scaling of the loss for fp16: starts at 2¹⁶, grows by 1.0003466 (twice in 2000) a good
// step, halves after a step whose gradients are not finite, never below 2¹⁰.
struct LossScale {
  static constexpr double kStart = 65536, kGrowth = 1.0003466, kFloor = 1024;

  double value = kStart;
  void grow() { value *= kGrowth; }
  void halve() { value = std::max(kFloor, value / 2); }
};

// One update by `adam` from gradients of a loss that was multiplied by scale->value (by 1 without a
// scale). Returns their norm, unscaled. With a scale, a step whose norm is not finite is left out
// and the scale adapts; without, the step is taken as it is.
inline double apply_gradients(Adam& adam, LossScale* scale, double learning_rate) {
  const double factor = scale ? scale->value : 1.0;
  const double norm = adam.gradient_norm(factor);
  if (scale && !std::isfinite(norm)) {
    adam.skip();
    scale->halve();
    return norm;
  }
  adam.step(learning_rate, norm, factor);
  if (scale) scale->grow();
  return norm;
}

}  // namespace lace::train
