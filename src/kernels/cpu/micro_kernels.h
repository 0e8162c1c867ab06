#pragma once

#include <cstdint>

#include "kernels/cpu/simd.h"

// The two matrix products that attention is made of. Their right operand B is packed,
// [depth][kTileOwners] with owners in the lanes; their left operand A is reached through one
// pointer a row and read by broadcasts, so that consecutive, strided and gathered rows cost the
// same and nothing is packed.
//
//   dot_rows      C[r][e] = Σ_k A[r][k] · B[k][e]     Sᵀ = K Qᵀ, dPᵀ = V dOᵀ
//   dot_columns   C[r][e] = Σ_k A[k][r] · B[k][e]     Oᵀ = Vᵀ P, dKᵀ = Qᵀ dS
//
// for r < rows, summed over k < depth.
// D is a dot of simd.h; with pairs, k counts pairs. Only vectors [v_begin, v_end) of the lanes are
// touched. C is computed in micro-tiles of accumulators `acc` for rows r … r + kRows − 1 and
// vectors v … v + kVectors − 1:
//   begin(acc, r, v)   sets the accumulators (to zero, or to what is added to)
//   end(acc, r, v)     takes them
// Both are called with F (&acc)[kRows][kVectors], once for each micro-tile; mark their operator()
// [[gnu::always_inline]], and every loop over acc `#pragma GCC unroll`: otherwise GCC leaves the
// accumulators on the stack, at a third of the speed.

namespace lace::cpu {

// acc = 0.
template <typename S>
struct ZeroTile {
  template <int kRows, int kVectors>
  [[gnu::always_inline]] void operator()(typename S::F (&acc)[kRows][kVectors], int, int) const {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; j++) acc[i][j] = S::zero();
    }
  }
};

// acc = c[r][v], rows of `stride` floats.
template <typename S>
struct LoadTile {
  const float* c;
  int stride = kTileOwners;
  template <int kRows, int kVectors>
  [[gnu::always_inline]] void operator()(typename S::F (&acc)[kRows][kVectors], int r,
                                         int v) const {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; j++) {
        acc[i][j] = S::load(c + (r + i) * stride + (v + j) * S::kLanes);
      }
    }
  }
};

// c[r][v] = acc.
template <typename S>
struct StoreTile {
  float* c;
  int stride = kTileOwners;
  template <int kRows, int kVectors>
  [[gnu::always_inline]] void operator()(typename S::F (&acc)[kRows][kVectors], int r,
                                         int v) const {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; j++) {
        S::store(c + (r + i) * stride + (v + j) * S::kLanes, acc[i][j]);
      }
    }
  }
};

// One micro-tile. kColumns: A is read by columns.
template <typename D, bool kColumns, int kRows, int kVectors, typename Begin, typename End>
[[gnu::noinline]] void dot_tile(int depth, const typename D::Element* const* a,
                                const typename D::Element* b, int b_stride, int r, int v,
                                const Begin& begin, const End& end) {
  using S = typename D::Simd;
  using Element = typename D::Element;
  typename S::F acc[kRows][kVectors];
  begin(acc, r, v);
  const Element* row[kRows];
  if constexpr (!kColumns) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) row[i] = a[r + i];
  }
  const Element* b_row = b + v * S::kLanes;
  for (int k = 0; k < depth; k++, b_row += b_stride) {
    typename D::Vector right[kVectors];
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; j++) right[j] = D::load(b_row + j * S::kLanes);
    const Element* column = kColumns ? a[k] + r : nullptr;
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
      const typename D::Vector left = D::broadcast(kColumns ? column + i : row[i] + k);
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; j++) acc[i][j] = D::apply(acc[i][j], left, right[j]);
    }
  }
  end(acc, r, v);
}

// The last `rows` < kRows rows.
template <typename D, bool kColumns, int kRows, int kVectors, typename Begin, typename End>
inline void dot_rest(int rows, int depth, const typename D::Element* const* a,
                     const typename D::Element* b, int b_stride, int r, int v, const Begin& begin,
                     const End& end) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      dot_tile<D, kColumns, kRows, kVectors>(depth, a, b, b_stride, r, v, begin, end);
    } else {
      dot_rest<D, kColumns, kRows - 1, kVectors>(rows, depth, a, b, b_stride, r, v, begin, end);
    }
  }
}

template <typename D, bool kColumns, int kVectors, typename Begin, typename End>
inline void dot_panel(int rows, int depth, const typename D::Element* const* a,
                      const typename D::Element* b, int b_stride, int v, const Begin& begin,
                      const End& end) {
  constexpr int kRows = kColumns ? D::Simd::tile_columns(kVectors) : D::Simd::tile_rows(kVectors);
  int r = 0;
  for (; r + kRows <= rows; r += kRows) {
    dot_tile<D, kColumns, kRows, kVectors>(depth, a, b, b_stride, r, v, begin, end);
  }
  dot_rest<D, kColumns, kRows - 1, kVectors>(rows - r, depth, a, b, b_stride, r, v, begin, end);
}

template <typename D, bool kColumns, int kVectors, typename Begin, typename End>
inline void dot_panels(int rows, int depth, const typename D::Element* const* a,
                       const typename D::Element* b, int b_stride, int v_begin, int v_end,
                       const Begin& begin, const End& end) {
  int v = v_begin;
  for (; v + kVectors <= v_end; v += kVectors) {
    dot_panel<D, kColumns, kVectors>(rows, depth, a, b, b_stride, v, begin, end);
  }
  if constexpr (kVectors > 1) {
    if (v < v_end) {
      dot_panels<D, kColumns, kVectors - 1>(rows, depth, a, b, b_stride, v, v_end, begin, end);
    }
  }
}

// See the top of the file.
//   a         row pointers: [rows] with `depth` elements each; for dot_columns [depth] with `rows`
//   b         [depth][b_stride] elements, 64-byte aligned, b_stride a multiple of 16
template <typename D, typename Begin, typename End>
inline void dot_rows(int rows, int depth, const typename D::Element* const* a,
                     const typename D::Element* b, int b_stride, int v_begin, int v_end,
                     const Begin& begin, const End& end) {
  dot_panels<D, false, D::Simd::kMaxVectors>(rows, depth, a, b, b_stride, v_begin, v_end, begin,
                                             end);
}

template <typename D, typename Begin, typename End>
inline void dot_columns(int rows, int depth, const typename D::Element* const* a,
                        const typename D::Element* b, int b_stride, int v_begin, int v_end,
                        const Begin& begin, const End& end) {
  dot_panels<D, true, D::Simd::kMaxVectors>(rows, depth, a, b, b_stride, v_begin, v_end, begin,
                                            end);
}

}  // namespace lace::cpu
