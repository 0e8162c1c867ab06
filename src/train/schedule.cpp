#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace lace::train {
namespace {

double time_fraction(const TrainConfig& config, const RunPosition& position) {
  return config.max_minutes > 0 ? position.elapsed_s / (60 * config.max_minutes) : 0.0;
}

}  // namespace

double run_fraction(const TrainConfig& config, const RunPosition& position) {
  const double steps = config.steps > 0
                           ? static_cast<double>(position.step) / static_cast<double>(config.steps)
                           : 0.0;
  return std::min(1.0, std::max(steps, time_fraction(config, position)));
}

double learning_rate(const Recipe& recipe, const RunPosition& position) {
  const auto t = static_cast<double>(position.step + 1);
  const auto warmup = static_cast<double>(recipe.optimizer.warmup_steps);
  const double peak = recipe.optimizer.learning_rate;
  if (t < warmup) return peak * t / warmup;
  const auto total = static_cast<double>(recipe.train.steps);
  double x = total > warmup ? (t - warmup) / (total - warmup) : 0.0;
  x = std::min(1.0, std::max(x, time_fraction(recipe.train, position)));
  return peak * 0.5 * (1 + std::cos(std::numbers::pi * x));
}

}  // namespace lace::train
