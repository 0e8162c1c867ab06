#pragma once

#include <cstdint>
#include <cstring>

namespace lace::cpu {

// 16-bit elements as they lie in memory, and single ones of every type as numbers.

struct BFloat16 {
  uint16_t bits;
};
using Float16 = _Float16;

template <typename To, typename From>
inline __attribute__((always_inline)) To as_bits(const From& from) {
  To to;
  static_assert(sizeof(to) == sizeof(from));
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

inline __attribute__((always_inline)) float value(const float* x) { return *x; }
inline __attribute__((always_inline)) double value(const double* x) { return *x; }
inline __attribute__((always_inline)) float value(const Float16* x) {
  return static_cast<float>(*x);
}
inline __attribute__((always_inline)) float value(const BFloat16* x) {
  return as_bits<float>(static_cast<uint32_t>(x->bits) << 16);
}

inline __attribute__((always_inline)) void set(float* to, float x) { *to = x; }
inline __attribute__((always_inline)) void set(double* to, double x) { *to = x; }
inline __attribute__((always_inline)) void set(Float16* to, float x) {
  *to = static_cast<Float16>(x);
}
// Rounds to the nearest, ties to even. A NaN of this processor stays one.
inline __attribute__((always_inline)) void set(BFloat16* to, float x) {
  const auto bits = as_bits<uint32_t>(x);
  to->bits = static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// The wide type of a compute type.
template <typename T>
struct WideOf {
  using Type = float;
};
template <>
struct WideOf<double> {
  using Type = double;
};
template <typename T>
using Wide = typename WideOf<T>::Type;

}  // namespace lace::cpu
