#pragma once

#include <cstdint>

namespace lace::cpu {

// Vectors of four floats for any machine, in the compiler's vector extensions; simd.h says what
// each name means. Every function is inlined by force.
struct Portable {
  static constexpr int kLanes = 4;
  static constexpr int kMaxVectors = 2;
  static constexpr bool kHasDotBf16 = false;
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
  // n is kLanes: every row is a multiple of 4 floats.
  [[gnu::always_inline]] static F load_first(const float* p, int) { return load(p); }
  [[gnu::always_inline]] static void store_first(float* p, F x, int) { store(p, x); }
  [[gnu::always_inline]] static F load_bf16(const uint16_t* p) {
    const I bits = {p[0], p[1], p[2], p[3]};
    return (F)(bits << 16);
  }
  [[gnu::always_inline]] static F load_bf16_first(const uint16_t* p, int) { return load_bf16(p); }
  // To nearest, ties to even; NaN stays NaN.
  [[gnu::always_inline]] static void store_bf16(uint16_t* p, F x) {
    const U bits = (U)x;
    const U rounded = bits + ((bits >> 16) & 1) + 0x7fff;
    const U is_nan = (U)(x != x);
    const U kept = (is_nan & 0x7fc00000) | (~is_nan & rounded);
    for (int i = 0; i < kLanes; i++) p[i] = static_cast<uint16_t>(kept[i] >> 16);
  }
  [[gnu::always_inline]] static void store_bf16_first(uint16_t* p, F x, int) { store_bf16(p, x); }

  [[gnu::always_inline]] static F add(F a, F b) { return a + b; }
  [[gnu::always_inline]] static F sub(F a, F b) { return a - b; }
  [[gnu::always_inline]] static F mul(F a, F b) { return a * b; }
  [[gnu::always_inline]] static F div(F a, F b) { return a / b; }
  [[gnu::always_inline]] static F fma(F a, F b, F c) { return a * b + c; }
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
};

}  // namespace lace::cpu
