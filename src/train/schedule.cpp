#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace lace::train {
namespace {

constexpr double kWarmupTime = 0.1;  // of max_minutes, at most

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
  const double time = time_fraction(recipe.train, position);
  if (t < warmup && time < kWarmupTime) return peak * std::max(t / warmup, time / kWarmupTime);
  const auto total = static_cast<double>(recipe.train.steps);
  double x = total > warmup ? std::max(0.0, (t - warmup) / (total - warmup)) : 0.0;
  x = std::min(1.0, std::max(x, time));
  const double last = recipe.optimizer.final_share;
  return peak * (last + (1 - last) * 0.5 * (1 + std::cos(std::numbers::pi * x)));
}

}  // namespace lace::train
