#pragma once

#include <cstdint>
#include <span>

#include "lace/evaluate.h"

namespace lace::train {

// The 97.5% quantile of Student's t distribution with `degrees` >= 1 degrees of freedom.
double student_t(int64_t degrees);

// The mean of `values` weighted by `weights`, all above 0, and its 95% interval by the formula of
// EvalResult::half_width (the ratio estimator's of survey sampling: Cochran, Sampling Techniques,
// 1977, section 6.3). There is at least one value.
Estimate weighted_mean(std::span<const double> values, std::span<const double> weights);

// The same with equal weights.
Estimate mean_of(std::span<const double> values);

}  // namespace lace::train
