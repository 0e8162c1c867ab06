#pragma once

#include "kernels/cpu/tile.h"

// What the kernels ask of an instruction set `S`. simd_avx512.h, simd_avx2.h and simd_portable.h
// hold one type each, and each is seen only by the files compiled for it (their flags are in
// CMakeLists.txt). All vector code is a template over S, and those files instantiate nothing else:
// no std containers or algorithms, so that the linker never merges a function compiled for one
// instruction set with the same function of another.
//
//   kLanes                      floats in a vector, a divisor of 16
//   kMaxVectors                 vectors across a micro-tile, at most
//   tile_rows(vectors)          rows of a micro-tile that is `vectors` wide: its accumulators, one
//                               row of operands and one broadcast fit the vector registers, one
//                               pointer a row the others
//   tile_columns(vectors)       the same where one pointer leads to all rows
//   F                           the vector
//   zero() set(x) add sub mul div; fma(a, b, c) = a·b + c, not rounded in between; max: b where a
//                               or b is NaN
//   load(p) store(p, x)         kLanes floats, BFloat16 or Float16 ↔ F, of any alignment, rounding
//                               to nearest even
//   load_first(p, n) …          the first n of them only, 0 < n <= kLanes, and no memory past them
//                               is touched; other lanes load as 0
//   keep(bits, x, y)            lane i: bit i of bits ? x : y
//   exp2(x)                     2ˣ within 8e-8 relative for −125 < x < 127; exactly 0 at and below
//                               −125; NaN for NaN; from 127 on any value, to be masked out
//   transpose(x)                x[i] lane j ↔ x[j] lane i
//   Fma                         the dot of floats: Element float, one product a step
//   DotBf16                     where there is one, the dot of bf16 pairs: Element uint32_t, the
//                               pair (low, high half), two products a step, accumulated in fp32;
//                               elements and sums below 2⁻¹²⁶ count as 0
//     with store_pairs(p, even, odd) and zip_bf16(out, even, odd, n)
//
// A dot D has Element, Vector, load(p) of kLanes aligned elements, broadcast(p) of one element, and
// apply(acc, a, b).

namespace lace::cpu {

// Vectors across a tile of owners.
template <typename S>
inline constexpr int kTileVectors = kTileOwners / S::kLanes;

}  // namespace lace::cpu
