#pragma once

#include <cstdint>

#include "lace/recipe.h"

namespace lace::train {

// Where a run stands.
struct RunPosition {
  int64_t step = 0;      // steps done
  double elapsed_s = 0;  // of training, all sittings together
};

// How far the run is, in [0, 1]: the further of steps / train.steps and elapsed / max_minutes.
double run_fraction(const TrainConfig& config, const RunPosition& position);

// The learning rate of the step after `position`: with t = step + 1, w warm-up steps, T steps,
//   t < w:  learning_rate · t / w
//   else:   learning_rate · ½ (1 + cos(π x)),  x = (t − w) / (T − w),
// or, where max_minutes is set, x = elapsed / max_minutes if that is further. A warm-up then ends
// after a tenth of the time at the latest, so that a slow machine does not spend the run on it.
double learning_rate(const Recipe& recipe, const RunPosition& position);

}  // namespace lace::train
