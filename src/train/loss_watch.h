#pragma once

#include <cstdint>

namespace lace::train {

// Finds the losses of a run that stand out: spikes. The mean of the losses so far, from the
// hundredth step on an exponential one that weighs a loss with 1/100, is compared with each; a
// spike counts in it as the highest loss that is none, so that a rise which lasts is the mean
// after a while, and is called a spike no longer.
class LossWatch {
 public:
  // All that later answers depend on, to be kept.
  struct State {
    double mean = 0;
    int64_t steps = 0;  // whose losses are in the mean
  };

  // `factor`: 0, or at least 1.
  explicit LossWatch(double factor) : factor_(factor) {}

  // Takes a step's loss. True if it is a spike: above `factor` times the mean of those before it,
  // of which there must be 20; or not finite. Never where `factor` is 0.
  bool add(double loss);

  const State& state() const { return state_; }
  void set_state(const State& state) { state_ = state; }

 private:
  double factor_;
  State state_;
};

}  // namespace lace::train
