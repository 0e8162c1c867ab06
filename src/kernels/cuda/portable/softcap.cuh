#pragma once

namespace lace::cuda::portable {

// tanh(x) within 2⁻²⁰ relative; NaN for NaN. Not tanhf, which --use_fast_math makes tanh.approx,
// off by 2⁻¹¹: of a softcap of 50 that is 0.02 of a logit. Small x by the polynomial of Cephes'
// tanhf.
inline __device__ float precise_tanh(float x) {
  const float size = fabsf(x);
  const float e = exp2f(-2.885390082f * size);
  const float far = __fdividef(1 - e, 1 + e);
  const float s = x * x;
  float p = fmaf(s, -5.70498872745e-3f, 2.06390887954e-2f);
  p = fmaf(p, s, -5.37397155531e-2f);
  p = fmaf(p, s, 1.33314422036e-1f);
  p = fmaf(p, s, -3.33332819422e-1f);
  return size < 0.625f ? fmaf(p * s, x, x) : copysignf(far, x);
}

// logits = tanh(scale · logits).
template <int kRowTiles, int kColumnTiles>
__device__ void cap_logits(float (&logits)[kRowTiles][kColumnTiles][4], float scale) {
#pragma unroll
  for (int r = 0; r < kRowTiles; r++) {
#pragma unroll
    for (int j = 0; j < kColumnTiles; j++) {
#pragma unroll
      for (int t = 0; t < 4; t++) logits[r][j][t] = precise_tanh(scale * logits[r][j][t]);
    }
  }
}

}  // namespace lace::cuda::portable
