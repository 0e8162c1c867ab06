#include "train/interval.h"

#include <cmath>
#include <numbers>
#include <vector>

namespace lace::train {
namespace {

// P(|T| < t), in the closed form of whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and
// 26.7.4).
double within(double t, int64_t degrees) {
  const double angle = std::atan(t / std::sqrt(static_cast<double>(degrees)));
  const double cosine = std::cos(angle);
  const bool odd = degrees % 2 == 1;
  double term = odd ? cosine : 1, sum = 0;
  for (int64_t k = odd ? 1 : 0; k <= degrees - 2; k += 2) {
    sum += term;
    term *= cosine * cosine * static_cast<double>(k + 1) / static_cast<double>(k + 2);
  }
  return odd ? 2 / std::numbers::pi * (angle + std::sin(angle) * sum) : std::sin(angle) * sum;
}

}  // namespace

double student_t(int64_t degrees) {
  constexpr double kNormal = 1.959963984540054;
  if (degrees > 1000) {  // two terms of the expansion in 1 / degrees: right to 1e-8 from here on
    const double v = static_cast<double>(degrees), z = kNormal;
    return z + (std::pow(z, 3) + z) / (4 * v) +
           (5 * std::pow(z, 5) + 16 * std::pow(z, 3) + 3 * z) / (96 * v * v);
  }
  double low = kNormal, high = 13;  // 12.7 with one degree
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (within(middle, degrees) < 0.95 ? low : high) = middle;
  }
  return (low + high) / 2;
}

Estimate weighted_mean(std::span<const double> values, std::span<const double> weights) {
  double total = 0, sum = 0, squares = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    total += weights[i];
    sum += weights[i] * values[i];
  }
  Estimate estimate{.mean = sum / total, .half_width = {}};
  if (values.size() < 2) return estimate;
  for (size_t i = 0; i < values.size(); ++i) {
    const double off = weights[i] * (values[i] - estimate.mean);
    squares += off * off;
  }
  const auto n = static_cast<double>(values.size());
  estimate.half_width =
      student_t(static_cast<int64_t>(values.size()) - 1) * std::sqrt(n / (n - 1) * squares) / total;
  return estimate;
}

Estimate mean_of(std::span<const double> values) {
  return weighted_mean(values, std::vector<double>(values.size(), 1.0));
}

}  // namespace lace::train
