#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cuda/section_order.h"  // LACE_HOST_DEVICE

namespace lace::cuda {

// Softcaps, for both GPU kernels: logits = softcap · tanh(cap_scale · q kᵀ).

// scale / softcap as a float: never infinite, nor 0, since ∞ · 0 is none of the logits that dead
// pairs may have; the least normal number shows in no logit that does count.
inline float cap_scale(double scale, double softcap) {
  constexpr double kLeast = std::numeric_limits<float>::min();
  constexpr double kMost = std::numeric_limits<float>::max();
  const double size = std::clamp(std::fabs(scale) / softcap, kLeast, kMost);
  return static_cast<float>(std::copysign(size, scale));
}

// tanh(x) within 2⁻²⁰ relative, however small x is; NaN for NaN. Neither tanh.approx, which is off
// by 2⁻¹¹: of a softcap of 50 that is 0.02 of a logit; nor 1 − 2 / (e²ˣ + 1), which takes one more
// of the instructions that are few, as exponentials are, and is off by 2⁻²² absolute. The quotient
// is the one of its degrees that is nearest to tanh up to kFar, raised towards there by 2⁻²¹, so
// that from kFar on it is 1 or up to 2⁻²⁰ more: 1 − tanh² is 0 there, or less.
LACE_HOST_DEVICE inline float precise_tanh(float x) {
  constexpr float kFar = 7.9f;
#ifdef __CUDA_ARCH__
  // fminf and fmaxf would make a number of NaN.
  asm("min.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(kFar));
  asm("max.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(-kFar));
#else
  if (std::fabs(x) > kFar) x = std::copysign(kFar, x);
#endif
  const float s = x * x;
  const float p = fmaf(fmaf(fmaf(46.4293861f, s, 11969.8984f), s, 523864.906f), s, 4051989.75f);
  const float q = fmaf(fmaf(fmaf(s + 968.773254f, s, 96552.0f), s, 1874523.75f), s, 4051990.25f);
#ifdef __CUDA_ARCH__
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(q));
#else
  const float inverse = 1 / q;
#endif
  return x * p * inverse;
}

// The slope of tanh where it is t: 1 − t², or 0 where that is less.
LACE_HOST_DEVICE inline float slope_of_tanh(float t) {
#ifdef __CUDA_ARCH__
  float y;
  asm("fma.rn.ftz.sat.f32 %0, %1, %2, 0f3F800000;" : "=f"(y) : "f"(-t), "f"(t));
  return y;
#else
  return std::max(std::fma(-t, t, 1.f), 0.f);
#endif
}

}  // namespace lace::cuda
