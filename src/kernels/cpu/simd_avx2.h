#pragma once

#include <cstdint>

#include <immintrin.h>

#include "kernels/cpu/tile.h"

namespace lace::cpu {

// Vectors of the AVX2 + FMA kernel; simd.h says what each name means. Every function is inlined by
// force, so that no copy compiled for this instruction set can reach another target.
struct Avx2 {
  static constexpr int kLanes = 8;
  static constexpr int kMaxVectors = 2;
  static constexpr int tile_rows(int vectors) { return vectors == 2 ? 6 : 8; }
  static constexpr int tile_columns(int vectors) { return tile_rows(vectors); }
  using F = __m256;

  [[gnu::always_inline]] static F zero() { return _mm256_setzero_ps(); }
  [[gnu::always_inline]] static F set(float x) { return _mm256_set1_ps(x); }
  [[gnu::always_inline]] static F load(const float* p) { return _mm256_loadu_ps(p); }
  [[gnu::always_inline]] static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  [[gnu::always_inline]] static F load_first(const float* p, int n) {
    return _mm256_maskload_ps(p, first(n));
  }
  [[gnu::always_inline]] static void store_first(float* p, F x, int n) {
    _mm256_maskstore_ps(p, first(n), x);
  }
  [[gnu::always_inline]] static F load(const BFloat16* p) {
    return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  [[gnu::always_inline]] static F load_first(const BFloat16* p, int n) {
    return widen(load_words(p, n));
  }
  [[gnu::always_inline]] static void store(BFloat16* p, F x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(x));
  }
  [[gnu::always_inline]] static void store_first(BFloat16* p, F x, int n) {
    store_words(p, narrow(x), n);
  }
  [[gnu::always_inline]] static F load(const Float16* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  [[gnu::always_inline]] static F load_first(const Float16* p, int n) {
    return _mm256_cvtph_ps(load_words(p, n));
  }
  [[gnu::always_inline]] static void store(Float16* p, F x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, kToNearest));
  }
  [[gnu::always_inline]] static void store_first(Float16* p, F x, int n) {
    store_words(p, _mm256_cvtps_ph(x, kToNearest), n);
  }

  [[gnu::always_inline]] static F add(F a, F b) { return _mm256_add_ps(a, b); }
  [[gnu::always_inline]] static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  [[gnu::always_inline]] static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  [[gnu::always_inline]] static F div(F a, F b) { return _mm256_div_ps(a, b); }
  [[gnu::always_inline]] static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  [[gnu::always_inline]] static F max(F a, F b) { return _mm256_max_ps(a, b); }
  [[gnu::always_inline]] static F keep(uint32_t bits, F x, F otherwise) {
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lane);
    return _mm256_blendv_ps(otherwise, x, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lane)));
  }
  [[gnu::always_inline]] static F exp2(F x) {
    const F live = _mm256_cmp_ps(x, set(-125), _CMP_NLE_UQ);
    const F n = _mm256_round_ps(x, kToNearest);
    const F r = sub(x, n);
    F p = set(1.5345812e-4f);
    p = fma(p, r, set(1.3399931e-3f));
    p = fma(p, r, set(9.6184889e-3f));
    p = fma(p, r, set(5.5503288e-2f));
    p = fma(p, r, set(2.4022647e-1f));
    p = fma(p, r, set(6.9314721e-1f));
    p = fma(p, r, set(1));
    const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    const F scaled = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
    return _mm256_and_ps(live, scaled);
  }

  [[gnu::always_inline]] static void transpose(F (&x)[kLanes]) {
    F t[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i += 4) {
      const F a = _mm256_unpacklo_ps(x[i], x[i + 1]), b = _mm256_unpackhi_ps(x[i], x[i + 1]);
      const F c = _mm256_unpacklo_ps(x[i + 2], x[i + 3]),
              d = _mm256_unpackhi_ps(x[i + 2], x[i + 3]);
      t[i] = _mm256_shuffle_ps(a, c, 0x44);
      t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
      t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
      t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 4; i++) {
      x[i] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x20);
      x[i + 4] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x31);
    }
  }

  struct Fma {
    using Simd = Avx2;
    using Element = float;
    using Vector = F;
    [[gnu::always_inline]] static Vector load(const Element* p) { return _mm256_load_ps(p); }
    [[gnu::always_inline]] static Vector broadcast(const Element* p) {
      return _mm256_broadcast_ss(p);
    }
    [[gnu::always_inline]] static F apply(F acc, Vector a, Vector b) {
      return _mm256_fmadd_ps(a, b, acc);
    }
  };

 private:
  static constexpr int kToNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

  [[gnu::always_inline]] static __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  [[gnu::always_inline]] static F widen(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
  }
  // To nearest, ties to even; NaN stays NaN.
  [[gnu::always_inline]] static __m128i narrow(F x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
    const __m256i kept = _mm256_castps_si256(_mm256_blendv_ps(
        _mm256_castsi256_ps(up), _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000)),
        _mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
    const __m256i high = _mm256_srli_epi32(kept, 16);
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08));
  }
  // The first n 16-bit words at `p`, 0 < n <= 8, in pieces of 4, 2 and 1.
  [[gnu::always_inline]] static __m128i load_words(const void* p, int n) {
    if (n == 8) return _mm_loadu_si128(static_cast<const __m128i*>(p));
    alignas(16) uint16_t words[8] = {};
    copy_words(words, static_cast<const uint16_t*>(p), n);
    return _mm_load_si128(reinterpret_cast<const __m128i*>(words));
  }
  [[gnu::always_inline]] static void store_words(void* p, __m128i x, int n) {
    alignas(16) uint16_t words[8];
    _mm_store_si128(reinterpret_cast<__m128i*>(words), x);
    if (n == 8) {
      _mm_storeu_si128(static_cast<__m128i*>(p), x);
    } else {
      copy_words(static_cast<uint16_t*>(p), words, n);
    }
  }
  [[gnu::always_inline]] static void copy_words(uint16_t* to, const uint16_t* from, int n) {
    int done = 0;
    if ((n & 4) != 0) {
      __builtin_memcpy(to, from, 8);
      done = 4;
    }
    if ((n & 2) != 0) {
      __builtin_memcpy(to + done, from + done, 4);
      done += 2;
    }
    if ((n & 1) != 0) to[done] = from[done];
  }
};

}  // namespace lace::cpu
