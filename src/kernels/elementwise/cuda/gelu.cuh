#pragma once

namespace lace::cuda {

// x · σ(1.702 x), which every kernel must compute alike: products have it in their epilogues too.
struct QuickGelu {
  static constexpr float kSlope = 1.702f;

  __device__ static float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }
  __device__ static float value(float x) { return x * sigmoid(kSlope * x); }
  __device__ static float derivative(float x) {
    const float s = sigmoid(kSlope * x);
    return s * fmaf(kSlope * x, 1.0f - s, 1.0f);
  }
};

}  // namespace lace::cuda
