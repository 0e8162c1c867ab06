#pragma once

#include <algorithm>

#include "core/dtype.h"

namespace lace::test {

// How far a tensor of a kernel may be from the float64 reference: every element by `max` · the
// largest |value| of the tensor, and all together by `rms` · the root mean square of its values.
struct Tolerance {
  double max, rms;
};
struct Tolerances {
  Tolerance out, gradients;
  double lse;  // every element, absolute
};

// max_logit: the largest |logit| of the problem. A logit that is a sum of fp32 products is wrong by
// some ε · |logit|, which its weight and everything made of it then is relatively.
inline Tolerances tolerances(DType dtype, double max_logit) {
  constexpr double kFloatEpsilon = 0x1p-24;                            // of one rounding
  const double epsilon = dtype == DType::kFloat16 ? 0x1p-12 : 0x1p-9;  // of one bf16's or fp16's
  const double logits = 2 * kFloatEpsilon * std::max(max_logit, 1.0);
  Tolerances allowed;
  allowed.lse = 16 * kFloatEpsilon + 2 * logits;
  if (dtype == DType::kFloat32) {
    // Sums of up to some hundred terms of both signs, rounded one by one.
    allowed.out = {16 * kFloatEpsilon + 2 * logits, 8 * kFloatEpsilon + logits};
    allowed.gradients = {32 * kFloatEpsilon + 4 * logits, 16 * kFloatEpsilon + 2 * logits};
  } else {
    // The result is rounded once, which may turn a last bit (2 ε of the element); on the way
    // weights are rounded, in backward dS too, which averages out over a sum; but where logits
    // hardly differ, backward's weights of a row are all rounded the same way (2,000 draws of
    // `summary(30, 3)` in float64 with nothing but these roundings were off by up to 2.23 ε).
    const double alike = max_logit < epsilon ? 0.5 * epsilon : 0;
    allowed.out = {4 * epsilon + 2 * logits, 1.5 * epsilon + logits};
    allowed.gradients = {6 * epsilon + 4 * logits, 2 * epsilon + 2 * logits + alike};
  }
  return allowed;
}

// On a GPU, where ex2.approx is off by up to 2^-22 of a weight, lg2.approx by up to 2^-22, and
// where a log-sum-exp, up to 8 or twice max_logit, goes from pass to pass in base 2, rounded four
// times on its way.
inline Tolerances gpu_tolerances(DType dtype, double max_logit) {
  Tolerances allowed = tolerances(dtype, max_logit);
  allowed.lse += 2 * 0x1p-22 + 4 * std::max(8.0, 2 * max_logit) * 0x1p-24 * 0.69;
  return allowed;
}

}  // namespace lace::test
