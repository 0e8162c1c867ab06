#include "train/schedule.h"

#include <cmath>

#include <gtest/gtest.h>

namespace lace::train {
namespace {

Recipe recipe() {
  Recipe r;
  r.optimizer.learning_rate = 2;
  r.optimizer.warmup_steps = 10;
  r.train.steps = 110;
  return r;
}

TEST(Schedule, WarmUpThenCosineBySteps) {
  const Recipe r = recipe();
  EXPECT_DOUBLE_EQ(learning_rate(r, {.step = 0}), 0.2);
  EXPECT_DOUBLE_EQ(learning_rate(r, {.step = 8}), 1.8);
  EXPECT_DOUBLE_EQ(learning_rate(r, {.step = 9}), 2);
  EXPECT_DOUBLE_EQ(learning_rate(r, {.step = 34}), 1 + std::sqrt(0.5));
  EXPECT_DOUBLE_EQ(learning_rate(r, {.step = 59}), 1);
  EXPECT_NEAR(learning_rate(r, {.step = 109}), 0, 1e-15);
}

TEST(Schedule, TimeEndsTheCosineToo) {
  Recipe r = recipe();
  r.train.max_minutes = 1;
  EXPECT_DOUBLE_EQ(learning_rate(r, {.step = 4, .elapsed_s = 1}), 1);  // still by steps
  EXPECT_DOUBLE_EQ(learning_rate(r, {.step = 20, .elapsed_s = 30}), 1);
  EXPECT_DOUBLE_EQ(learning_rate(r, {.step = 59, .elapsed_s = 1}), 1);  // steps are further
  EXPECT_NEAR(learning_rate(r, {.step = 20, .elapsed_s = 100}), 0, 1e-15);
  r.train.steps = 0;
  EXPECT_DOUBLE_EQ(learning_rate(r, {.step = 1000, .elapsed_s = 30}), 1);
  EXPECT_DOUBLE_EQ(run_fraction(r.train, {.step = 1000, .elapsed_s = 15}), 0.25);
}

TEST(Schedule, WarmUpEndsAfterATenthOfTheTime) {
  Recipe r = recipe();
  r.optimizer.warmup_steps = 1000;
  r.train.steps = 0;
  r.train.max_minutes = 1;
  EXPECT_DOUBLE_EQ(learning_rate(r, {.step = 9, .elapsed_s = 3}), 1);
  EXPECT_DOUBLE_EQ(learning_rate(r, {.step = 20, .elapsed_s = 30}), 1);
  EXPECT_NEAR(learning_rate(r, {.step = 40, .elapsed_s = 60}), 0, 1e-15);
  r.train.steps = 2000;
  EXPECT_DOUBLE_EQ(learning_rate(r, {.step = 20, .elapsed_s = 30}), 1);
}

TEST(Schedule, TheCosineEndsAtAShareOfTheRate) {
  Recipe r = recipe();
  r.optimizer.final_share = 0.1;
  EXPECT_DOUBLE_EQ(learning_rate(r, {.step = 8}), 1.8);
  EXPECT_DOUBLE_EQ(learning_rate(r, {.step = 59}), 1.1);
  EXPECT_DOUBLE_EQ(learning_rate(r, {.step = 109}), 0.2);
  r.optimizer.final_share = 1;
  for (const int64_t step : {9, 34, 109}) EXPECT_DOUBLE_EQ(learning_rate(r, {.step = step}), 2);
}

TEST(Schedule, RunFraction) {
  Recipe r = recipe();
  EXPECT_DOUBLE_EQ(run_fraction(r.train, {.step = 55}), 0.5);
  r.train.max_minutes = 1;
  EXPECT_DOUBLE_EQ(run_fraction(r.train, {.step = 55, .elapsed_s = 45}), 0.75);
  EXPECT_DOUBLE_EQ(run_fraction(r.train, {.step = 55, .elapsed_s = 450}), 1);
}

}  // namespace
}  // namespace lace::train
