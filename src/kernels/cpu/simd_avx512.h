#pragma once

#include <cstdint>

#include <immintrin.h>

#include "kernels/cpu/tile.h"

namespace lace::cpu {

// Vectors of the AVX-512 kernels; simd.h says what each name means. Every function is inlined by
// force, so that no copy compiled for this instruction set can reach another target.
struct Avx512 {
  static constexpr int kLanes = 16;
  static constexpr int kMaxVectors = 4;
  static constexpr int tile_rows(int vectors) { return vectors == 4 ? 6 : 8; }
  static constexpr int tile_columns(int vectors) { return vectors == 1 ? 16 : tile_rows(vectors); }
  using F = __m512;

  [[gnu::always_inline]] static F zero() { return _mm512_setzero_ps(); }
  [[gnu::always_inline]] static F set(float x) { return _mm512_set1_ps(x); }
  [[gnu::always_inline]] static F load(const float* p) { return _mm512_loadu_ps(p); }
  [[gnu::always_inline]] static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  [[gnu::always_inline]] static F load_first(const float* p, int n) {
    return _mm512_maskz_loadu_ps(first(n), p);
  }
  [[gnu::always_inline]] static void store_first(float* p, F x, int n) {
    _mm512_mask_storeu_ps(p, first(n), x);
  }
  [[gnu::always_inline]] static F load(const BFloat16* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  [[gnu::always_inline]] static F load_first(const BFloat16* p, int n) {
    return widen(_mm256_maskz_loadu_epi16(first(n), p));
  }
  [[gnu::always_inline]] static void store(BFloat16* p, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x));
  }
  [[gnu::always_inline]] static void store_first(BFloat16* p, F x, int n) {
    _mm256_mask_storeu_epi16(p, first(n), narrow(x));
  }
  [[gnu::always_inline]] static F load(const Float16* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  [[gnu::always_inline]] static F load_first(const Float16* p, int n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p));
  }
  [[gnu::always_inline]] static void store(Float16* p, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, kToNearest));
  }
  [[gnu::always_inline]] static void store_first(Float16* p, F x, int n) {
    _mm256_mask_storeu_epi16(p, first(n), _mm512_cvtps_ph(x, kToNearest));
  }

  [[gnu::always_inline]] static F add(F a, F b) { return _mm512_add_ps(a, b); }
  [[gnu::always_inline]] static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  [[gnu::always_inline]] static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  [[gnu::always_inline]] static F div(F a, F b) { return _mm512_div_ps(a, b); }
  [[gnu::always_inline]] static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  [[gnu::always_inline]] static F max(F a, F b) { return _mm512_max_ps(a, b); }
  [[gnu::always_inline]] static F keep(uint32_t bits, F x, F otherwise) {
    return _mm512_mask_mov_ps(otherwise, static_cast<__mmask16>(bits), x);
  }
  [[gnu::always_inline]] static F exp2(F x) {
    const __mmask16 live = _mm512_cmp_ps_mask(x, set(-125), _CMP_NLE_UQ);
    const F n = _mm512_roundscale_ps(x, kToNearest);
    const F r = sub(x, n);
    F p = set(1.5345812e-4f);
    p = fma(p, r, set(1.3399931e-3f));
    p = fma(p, r, set(9.6184889e-3f));
    p = fma(p, r, set(5.5503288e-2f));
    p = fma(p, r, set(2.4022647e-1f));
    p = fma(p, r, set(6.9314721e-1f));
    p = fma(p, r, set(1));
    return _mm512_maskz_scalef_ps(live, p, n);
  }

  [[gnu::always_inline]] static void transpose(F (&x)[kLanes]) {
    F t[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 4) {
      const F a = _mm512_unpacklo_ps(x[i], x[i + 1]), b = _mm512_unpackhi_ps(x[i], x[i + 1]);
      const F c = _mm512_unpacklo_ps(x[i + 2], x[i + 3]),
              d = _mm512_unpackhi_ps(x[i + 2], x[i + 3]);
      t[i] = unpack_low(a, c);
      t[i + 1] = unpack_high(a, c);
      t[i + 2] = unpack_low(b, d);
      t[i + 3] = unpack_high(b, d);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 4; i++) {
      const F a = _mm512_shuffle_f32x4(t[i], t[i + 4], 0x88);
      const F b = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0x88);
      const F c = _mm512_shuffle_f32x4(t[i], t[i + 4], 0xdd);
      const F d = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0xdd);
      x[i] = _mm512_shuffle_f32x4(a, b, 0x88);
      x[i + 8] = _mm512_shuffle_f32x4(a, b, 0xdd);
      x[i + 4] = _mm512_shuffle_f32x4(c, d, 0x88);
      x[i + 12] = _mm512_shuffle_f32x4(c, d, 0xdd);
    }
  }

  struct Fma {
    using Simd = Avx512;
    using Element = float;
    using Vector = F;
    [[gnu::always_inline]] static Vector load(const Element* p) { return _mm512_load_ps(p); }
    [[gnu::always_inline]] static Vector broadcast(const Element* p) { return _mm512_set1_ps(*p); }
    [[gnu::always_inline]] static F apply(F acc, Vector a, Vector b) {
      return _mm512_fmadd_ps(a, b, acc);
    }
  };

 private:
  static constexpr int kToNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

  [[gnu::always_inline]] static __mmask16 first(int n) {
    return static_cast<__mmask16>((1u << n) - 1);
  }
  [[gnu::always_inline]] static F widen(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
  // To nearest, ties to even; NaN stays NaN.
  [[gnu::always_inline]] static __m256i narrow(F x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(
        _mm512_srli_epi32(_mm512_mask_mov_epi32(up, nan, _mm512_set1_epi32(0x7fc00000)), 16));
  }
  [[gnu::always_inline]] static F unpack_low(F a, F b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
  [[gnu::always_inline]] static F unpack_high(F a, F b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
};

#ifdef __AVX512BF16__

// As Avx512, with dot products of bf16 pairs.
struct Avx512Bf16 : Avx512 {
  // Pairs (even, odd) rounded to bf16, even in the low half of each lane. For finite values.
  [[gnu::always_inline]] static void store_pairs(uint32_t* p, F even, F odd) {
    const __m512i half = _mm512_set1_epi32(0x8000);
    const __m512i low = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(even), half), 16);
    const __m512i high = _mm512_add_epi32(_mm512_castps_si512(odd), half);
    // low | (high & 0xffff0000)
    _mm512_store_si512(p, _mm512_ternarylogic_epi32(
                              low, high, _mm512_set1_epi32(static_cast<int>(0xffff0000)), 0xf8));
  }
  // out[i] = (even[i], odd[i]) for the first n bf16 of two rows, 0 < n <= 16.
  [[gnu::always_inline]] static void zip_bf16(uint32_t* out, const BFloat16* even,
                                              const BFloat16* odd, int n) {
    const __mmask16 some = static_cast<__mmask16>((1u << n) - 1);
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, even));
    const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, odd));
    _mm512_mask_storeu_epi32(out, some, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
  }

  struct DotBf16 {
    using Simd = Avx512Bf16;
    using Element = uint32_t;
    using Vector = __m512i;
    [[gnu::always_inline]] static Vector load(const Element* p) { return _mm512_load_si512(p); }
    [[gnu::always_inline]] static Vector broadcast(const Element* p) {
      int pair;  // rows of bf16 may be aligned to 2 bytes only
      __builtin_memcpy(&pair, p, sizeof pair);
      return _mm512_set1_epi32(pair);
    }
    [[gnu::always_inline]] static F apply(F acc, Vector a, Vector b) {
      return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b);
    }
  };
};

#endif

}  // namespace lace::cpu
