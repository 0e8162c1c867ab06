#include "train/interval.h"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

namespace lace::train {
namespace {

// Abramowitz and Stegun, table 26.10 (and R's qt(0.975, n) for the last ones).
TEST(Interval, StudentsQuantilesAreThoseOfTheTables) {
  EXPECT_NEAR(student_t(1), 12.7062, 1e-4);
  EXPECT_NEAR(student_t(2), 4.30265, 1e-5);
  EXPECT_NEAR(student_t(3), 3.18245, 1e-5);
  EXPECT_NEAR(student_t(10), 2.22814, 1e-5);
  EXPECT_NEAR(student_t(30), 2.04227, 1e-5);
  EXPECT_NEAR(student_t(100), 1.98397, 1e-5);
  EXPECT_NEAR(student_t(1000), student_t(1001), 1e-5);  // where the expansion takes over
  EXPECT_NEAR(student_t(1'000'000'000), 1.959964, 1e-6);
}

TEST(Interval, EqualWeightsGiveTheTextbooksInterval) {
  const Estimate estimate = mean_of(std::vector<double>{1, 2, 4, 9});
  EXPECT_DOUBLE_EQ(estimate.mean, 4);
  // Deviation √((9 + 4 + 0 + 25) / 3), over √4, times the quantile of 3 degrees.
  ASSERT_TRUE(estimate.half_width.has_value());
  EXPECT_NEAR(*estimate.half_width, 3.182446 * std::sqrt(38.0 / 3) / 2, 1e-5);
}

TEST(Interval, WeightsCount) {
  const Estimate estimate =
      weighted_mean(std::vector<double>{1, 2, 4}, std::vector<double>{3, 1, 4});
  EXPECT_DOUBLE_EQ(estimate.mean, 21.0 / 8);
  const double off[] = {3 * (1 - 21.0 / 8), 1 * (2 - 21.0 / 8), 4 * (4 - 21.0 / 8)};
  const double squares = off[0] * off[0] + off[1] * off[1] + off[2] * off[2];
  ASSERT_TRUE(estimate.half_width.has_value());
  EXPECT_NEAR(*estimate.half_width, 4.302653 * std::sqrt(1.5 * squares) / 8, 1e-5);
}

TEST(Interval, OneValueHasNone) {
  const Estimate estimate = mean_of(std::vector<double>{7});
  EXPECT_EQ(estimate.mean, 7);
  EXPECT_FALSE(estimate.half_width.has_value());
}

}  // namespace
}  // namespace lace::train
