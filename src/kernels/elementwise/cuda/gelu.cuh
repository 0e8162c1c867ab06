#pragma once

namespace lace::cuda {

// x · σ(1.702 x), which every kernel must compute alike: products have it in their epilogues too,
// where each instruction counts.
struct QuickGelu {
  static constexpr float kSlope = 1.702f;
  static constexpr float kLog2E = 1.4426950408889634f;

  // σ(1.702 x)
  __device__ static float gate(float x) {
    return __fdividef(1.0f, 1.0f + exp2f(x * (-kSlope * kLog2E)));
  }
  __device__ static float value(float x) { return x * gate(x); }
  __device__ static float derivative(float x) {
    const float s = gate(x);
    return fmaf(kSlope * x, fmaf(-s, s, s), s);
  }
};

}  // namespace lace::cuda
