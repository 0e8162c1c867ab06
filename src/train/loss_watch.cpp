#include "train/loss_watch.h"

#include <algorithm>
#include <cmath>

namespace lace::train {

bool LossWatch::add(double loss) {
  constexpr int64_t kLeast = 20, kMost = 100;
  if (!std::isfinite(loss)) return factor_ > 0;
  const double highest = factor_ * state_.mean;
  const bool spike = factor_ > 0 && state_.steps >= kLeast && loss > highest;
  ++state_.steps;
  const double taken = spike ? highest : loss;
  state_.mean += (taken - state_.mean) / static_cast<double>(std::min(state_.steps, kMost));
  return spike;
}

}  // namespace lace::train
