#pragma once

#include <cstdint>

#include "kernels/cpu/tile.h"

namespace lace::cpu {

// Vectors of four floats for any machine, in the compiler's vector extensions; simd.h says what
// each name means. Every function is inlined by force.
struct Portable {
  static constexpr int kLanes = 4;
  static constexpr int kMaxVectors = 2;
  static constexpr int tile_rows(int vectors) { return vectors == 2 ? 4 : 8; }
  static constexpr int tile_columns(int vectors) { return tile_rows(vectors); }
  using F = float __attribute__((vector_size(16)));
  using I = int32_t __attribute__((vector_size(16)));
  using U = uint32_t __attribute__((vector_size(16)));  // bits: sums of them may wrap

  [[gnu::always_inline]] static F zero() { return F{}; }
  [[gnu::always_inline]] static F set(float x) { return F{x, x, x, x}; }
  [[gnu::always_inline]] static F load(const float* p) {
    F x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
  }
  [[gnu::always_inline]] static void store(float* p, F x) { __builtin_memcpy(p, &x, sizeof x); }
  [[gnu::always_inline]] static F load_first(const float* p, int n) {
    F x = {};
    for (int i = 0; i < n; i++) x[i] = p[i];
    return x;
  }
  [[gnu::always_inline]] static void store_first(float* p, F x, int n) {
    for (int i = 0; i < n; i++) p[i] = x[i];
  }
  // Of BFloat16 or Float16.
  template <typename T>
  [[gnu::always_inline]] static F load(const T* p) {
    return load_first(p, kLanes);
  }
  template <typename T>
  [[gnu::always_inline]] static F load_first(const T* p, int n) {
    U words = {};
    for (int i = 0; i < n; i++) words[i] = p[i].bits;
    return widen(words, T{});
  }
  template <typename T>
  [[gnu::always_inline]] static void store(T* p, F x) {
    store_first(p, x, kLanes);
  }
  template <typename T>
  [[gnu::always_inline]] static void store_first(T* p, F x, int n) {
    const U words = narrow(x, T{});
    for (int i = 0; i < n; i++) p[i].bits = static_cast<uint16_t>(words[i]);
  }

  [[gnu::always_inline]] static F add(F a, F b) { return a + b; }
  [[gnu::always_inline]] static F sub(F a, F b) { return a - b; }
  [[gnu::always_inline]] static F mul(F a, F b) { return a * b; }
  [[gnu::always_inline]] static F div(F a, F b) { return a / b; }
  // Through doubles, which hold the product: the sum alone is rounded, as by the others.
  [[gnu::always_inline]] static F fma(F a, F b, F c) {
    using D = double __attribute__((vector_size(32)));
    const D product = __builtin_convertvector(a, D) * __builtin_convertvector(b, D);
    return __builtin_convertvector(product + __builtin_convertvector(c, D), F);
  }
  [[gnu::always_inline]] static F max(F a, F b) { return select(a > b, a, b); }
  [[gnu::always_inline]] static F keep(uint32_t bits, F x, F otherwise) {
    const I lane = {1, 2, 4, 8};
    const int32_t word = static_cast<int32_t>(bits);
    return select((I{word, word, word, word} & lane) == lane, x, otherwise);
  }
  [[gnu::always_inline]] static F exp2(F x) {
    const I dead = x <= set(-125);
    const F safe = select(dead, zero(), x);
    // Adding 1.5 · 2²³ rounds to an integer, which is left in the low bits.
    const F shifted = safe + set(12582912);
    const F r = safe - (shifted - set(12582912));
    F p = set(1.5345812e-4f);
    p = p * r + set(1.3399931e-3f);
    p = p * r + set(9.6184889e-3f);
    p = p * r + set(5.5503288e-2f);
    p = p * r + set(2.4022647e-1f);
    p = p * r + set(6.9314721e-1f);
    p = p * r + set(1);
    return (F)((U)~dead & ((U)p + ((U)shifted << 23)));
  }

  [[gnu::always_inline]] static void transpose(F (&x)[kLanes]) {
    const F a = {x[0][0], x[1][0], x[2][0], x[3][0]};
    const F b = {x[0][1], x[1][1], x[2][1], x[3][1]};
    const F c = {x[0][2], x[1][2], x[2][2], x[3][2]};
    const F d = {x[0][3], x[1][3], x[2][3], x[3][3]};
    x[0] = a;
    x[1] = b;
    x[2] = c;
    x[3] = d;
  }

  struct Fma {
    using Simd = Portable;
    using Element = float;
    using Vector = F;
    [[gnu::always_inline]] static Vector load(const Element* p) { return Portable::load(p); }
    [[gnu::always_inline]] static Vector broadcast(const Element* p) { return set(*p); }
    [[gnu::always_inline]] static F apply(F acc, Vector a, Vector b) { return acc + a * b; }
  };

 private:
  [[gnu::always_inline]] static F select(I condition, F a, F b) {
    return (F)((condition & (I)a) | (~condition & (I)b));
  }
  [[gnu::always_inline]] static U select(I condition, U a, U b) {
    return ((U)condition & a) | (~(U)condition & b);
  }

  // 16-bit words ↔ floats; to nearest, ties to even; NaN stays NaN.
  [[gnu::always_inline]] static F widen(U words, BFloat16) { return (F)(words << 16); }
  [[gnu::always_inline]] static U narrow(F x, BFloat16) {
    const U bits = (U)x;
    const U rounded = bits + ((bits >> 16) & 1) + 0x7fff;
    return select(x != x, U{} + 0x7fc0, rounded >> 16);
  }
  [[gnu::always_inline]] static F widen(U words, Float16) {
    const U size = words & 0x7fff;
    // Subnormals are multiples of 2⁻²⁴; other exponents move from bias 15 to bias 127.
    const F subnormal = __builtin_convertvector((I)size, F) * set(0x1p-24f);
    const U normal = (size << 13) + (112u << 23);
    const U finite = select((I)size < 0x400, (U)subnormal, normal);
    const U special = (size << 13) | 0x7f800000;
    return (F)(select((I)size >= 0x7c00, special, finite) | ((words & 0x8000) << 16));
  }
  [[gnu::always_inline]] static U narrow(F x, Float16) {
    const U size = (U)x & 0x7fffffff;
    // Adding ½ leaves multiples of 2⁻²⁴ in the low bits.
    const U subnormal = (U)((F)size + set(0.5f)) - (U)set(0.5f);
    const U normal = (size + 0xfff + ((size >> 13) & 1) - (112u << 23)) >> 13;
    const U finite = select((I)size < 0x38800000, subnormal, normal);
    const U kept = select((I)size >= 0x477ff000, U{} + 0x7c00, finite);
    return select(x != x, U{} + 0x7e00, kept) | (((U)x >> 16) & 0x8000);
  }
};

}  // namespace lace::cpu
