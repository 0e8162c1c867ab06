#pragma once

#include <cstdint>

#include "kernels/cpu/simd.h"

// Between rows [e][dim] of a tensor and packed operands [dim][kTileOwners], and between bf16 and
// fp32 rows.

namespace lace::cpu {

template <typename S>
[[gnu::always_inline]] inline typename S::F load_some(const float* p, int n) {
  return n == S::kLanes ? S::load(p) : S::load_first(p, n);
}
template <typename S>
[[gnu::always_inline]] inline typename S::F load_some(const uint16_t* p, int n) {
  return n == S::kLanes ? S::load_bf16(p) : S::load_bf16_first(p, n);
}
template <typename S>
[[gnu::always_inline]] inline void store_some(float* p, typename S::F x, int n) {
  n == S::kLanes ? S::store(p, x) : S::store_first(p, x, n);
}
template <typename S>
[[gnu::always_inline]] inline void store_some(uint16_t* p, typename S::F x, int n) {
  n == S::kLanes ? S::store_bf16(p, x) : S::store_bf16_first(p, x, n);
}

// packed[d][e] = rows[e][d] for d < dim, e < count rounded up to kGranule; a null row reads as 0.
//   rows   [count] pointers to dim floats, or bf16 (uint16_t), which become floats; dim is a
//          multiple of 4 for floats, of 8 for bf16
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

// rows[e][d] = packed[d][e] · factor[e] for d < dim, e < count; a null row is skipped. dim is a
// multiple of 8.
//   rows   [count] pointers to dim floats, or bf16 (uint16_t), to which floats are rounded
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

// out[r][d] = rows[r][d] as floats, for r < count; out rows are `dim` apart, dim a multiple of 8.
template <typename S>
inline void widen_rows(const uint16_t* const* rows, int count, int dim, float* out) {
  for (int r = 0; r < count; r++) {
    for (int d = 0; d < dim; d += S::kLanes) {
      const int n = dim - d < S::kLanes ? dim - d : S::kLanes;
      store_some<S>(out + r * dim + d, load_some<S>(rows[r] + d, n), n);
    }
  }
}

}  // namespace lace::cpu
