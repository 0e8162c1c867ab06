#pragma once

#include "kernels/cpu/simd.h"

namespace lace::cpu {

// tanh(x) within 4e-7 relative, also of small x; NaN for NaN. As m / (m + 2) with m = e^2x − 1,
// which is 2ⁿ (2ʳ − 1) + 2ⁿ − 1 for 2x · log2(e) = n + r.
template <typename S>
[[gnu::always_inline]] inline typename S::F tanh_of(typename S::F x) {
  using F = typename S::F;
  const F limit = S::set(-30);  // beyond it tanh rounds to ±1
  F y = S::max(limit, S::mul(x, S::set(2.885390082f)));
  y = S::sub(S::zero(), S::max(limit, S::sub(S::zero(), y)));
  const F shift = S::set(12582912);  // 1.5 · 2²³: the sum is rounded to an integer
  const F n = S::sub(S::add(y, shift), shift);
  const F r = S::sub(y, n);
  F p = S::set(1.5345812e-4f);
  p = S::fma(p, r, S::set(1.3399931e-3f));
  p = S::fma(p, r, S::set(9.6184889e-3f));
  p = S::fma(p, r, S::set(5.5503288e-2f));
  p = S::fma(p, r, S::set(2.4022647e-1f));
  p = S::fma(p, r, S::set(6.9314721e-1f));
  const F power = S::exp2(n);
  const F m = S::fma(power, S::mul(p, r), S::sub(power, S::set(1)));
  return S::div(m, S::add(m, S::set(2)));
}

// acc = tanh(scale · acc), of a micro-tile.
template <typename S, int kRows, int kVectors>
[[gnu::always_inline]] inline void cap_tile(typename S::F (&acc)[kRows][kVectors], float scale) {
  const typename S::F c = S::set(scale);
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; j++) acc[i][j] = tanh_of<S>(S::mul(acc[i][j], c));
  }
}

}  // namespace lace::cpu
