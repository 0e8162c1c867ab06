#pragma once

#include <cstdint>

#include "kernels/cpu/simd.h"

// Between rows [e][dim] of a tensor and packed operands [dim][kTileOwners], and between 16-bit and
// fp32 rows. dim is any: nothing past a row's end is read or written.

namespace lace::cpu {

// n <= kLanes elements T: float, BFloat16 or Float16.
template <typename S, typename T>
[[gnu::always_inline]] inline typename S::F load_some(const T* p, int n) {
  return n == S::kLanes ? S::load(p) : S::load_first(p, n);
}
template <typename S, typename T>
[[gnu::always_inline]] inline void store_some(T* p, typename S::F x, int n) {
  n == S::kLanes ? S::store(p, x) : S::store_first(p, x, n);
}

// packed[d][e] = rows[e][d] for d < dim, e < count rounded up to kGranule; a null row reads as 0.
//   rows   [count] pointers to dim elements, which become floats
//   packed [dim][kTileOwners]
// To pack bf16 pairs, pass the rows as floats, with half the dim: bits are moved, not computed.
template <typename S, typename T>
inline void pack_rows(const T* const* rows, int count, int dim, float* packed) {
  constexpr int kLanes = S::kLanes;
  for (int e = 0; e < (count + kGranule - 1) / kGranule * kGranule; e += kLanes) {
    for (int d = 0; d < dim; d += kLanes) {
      const int n = dim - d < kLanes ? dim - d : kLanes;
      typename S::F x[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; i++) {
        const T* row = e + i < count ? rows[e + i] : nullptr;
        x[i] = row ? load_some<S>(row + d, n) : S::zero();
      }
      S::transpose(x);
      if (n == kLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; i++) S::store(packed + (d + i) * kTileOwners + e, x[i]);
      } else {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; i++) {
          if (i < n) S::store(packed + (d + i) * kTileOwners + e, x[i]);
        }
      }
    }
  }
}

// rows[e][d] = packed[d][e] · factor[e] for d < dim, e < count; a null row is skipped.
//   rows   [count] pointers to dim elements, to which floats are rounded
//   packed [dim][kTileOwners];  factor [kTileOwners]
template <typename S, typename T>
inline void unpack_rows(const float* packed, const float* factor, int count, int dim,
                        T* const* rows) {
  constexpr int kLanes = S::kLanes;
  for (int e = 0; e < count; e += kLanes) {
    const typename S::F scale = S::load(factor + e);
    for (int d = 0; d < dim; d += kLanes) {
      const int n = dim - d < kLanes ? dim - d : kLanes;
      typename S::F x[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; i++) {
        x[i] = i < n ? S::mul(S::load(packed + (d + i) * kTileOwners + e), scale) : S::zero();
      }
      S::transpose(x);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; i++) {
        T* row = e + i < count ? rows[e + i] : nullptr;
        if (row) store_some<S>(row + d, x[i], n);
      }
    }
  }
}

// out[r][d] = rows[r][d] as floats, for r < count; out rows are `stride` >= dim apart.
template <typename S, typename T>
inline void widen_rows(const T* const* rows, int count, int dim, int stride, float* out) {
  for (int r = 0; r < count; r++) {
    for (int d = 0; d < dim; d += S::kLanes) {
      const int n = dim - d < S::kLanes ? dim - d : S::kLanes;
      store_some<S>(out + r * stride + d, load_some<S>(rows[r] + d, n), n);
    }
  }
}

// out[r / 2][d] = (rows[r][d], rows[r + 1][d]), out rows `stride` >= dim apart; a null row, or one
// past count, reads as 0. dim <= kMaxHeadDim.
template <typename S>
inline void zip_rows(const BFloat16* const* rows, int count, int dim, int stride, uint32_t* out) {
  static constexpr BFloat16 kZeros[kMaxHeadDim] = {};
  for (int r = 0; r < count; r += 2) {
    const BFloat16* even = rows[r] ? rows[r] : kZeros;
    const BFloat16* odd = r + 1 < count && rows[r + 1] ? rows[r + 1] : kZeros;
    for (int d = 0; d < dim; d += S::kLanes) {
      S::zip_bf16(out + r / 2 * stride + d, even + d, odd + d,
                  dim - d < S::kLanes ? dim - d : S::kLanes);
    }
  }
}

}  // namespace lace::cpu
