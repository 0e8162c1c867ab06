#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/dtype.h"

namespace lace::reference {

// One element of a tensor as float64 and back, with a single rounding to nearest even. 16-bit
// formats are `kExponentBits` + `kMantissaBits` wide with an IEEE layout.
template <typename Storage>
struct Plain {
  using Type = Storage;
  static double load(Storage x) { return static_cast<double>(x); }
  static Storage store(double x) { return static_cast<Storage>(x); }
};

template <int kExponentBits, int kMantissaBits>
struct Narrow {
  using Type = uint16_t;
  static constexpr int kBias = (1 << (kExponentBits - 1)) - 1;
  static constexpr int kInfinity = ((1 << kExponentBits) - 1) << kMantissaBits;

  static double load(uint16_t bits) {
    const int exponent = (bits >> kMantissaBits) & ((1 << kExponentBits) - 1);
    const int mantissa = bits & ((1 << kMantissaBits) - 1);
    double x = 0;
    if ((bits & 0x7fff) >= kInfinity) {
      x = mantissa != 0 ? NAN : INFINITY;
    } else if (exponent == 0) {
      x = std::ldexp(mantissa, 1 - kBias - kMantissaBits);
    } else {
      x = std::ldexp(mantissa + (1 << kMantissaBits), exponent - kBias - kMantissaBits);
    }
    return (bits & 0x8000) != 0 ? -x : x;
  }

  static uint16_t store(double x) {
    const int sign = std::signbit(x) ? 0x8000 : 0;
    const double magnitude = std::fabs(x);
    if (std::isnan(x)) return static_cast<uint16_t>(kInfinity + 1);
    if (std::isinf(x)) return static_cast<uint16_t>(sign | kInfinity);
    if (magnitude == 0) return static_cast<uint16_t>(sign);
    const int exponent = std::max(std::ilogb(magnitude), 1 - kBias);
    if (exponent > kBias) return static_cast<uint16_t>(sign | kInfinity);
    const int units =
        static_cast<int>(std::nearbyint(std::ldexp(magnitude, kMantissaBits - exponent)));
    // `units` holds the implicit bit, or lacks it where the result is subnormal.
    const int bits = ((exponent + kBias - 1) << kMantissaBits) + units;
    return static_cast<uint16_t>(sign | std::min(bits, kInfinity));
  }
};

using BFloat16 = Narrow<8, 7>;
using Float16 = Narrow<5, 10>;

// Calls function.template operator()<Element>() with the element of `dtype`.
template <typename Function>
void dispatch_element(DType dtype, Function&& function) {
  switch (dtype) {
    case DType::kFloat64:
      return function.template operator()<Plain<double>>();
    case DType::kFloat32:
      return function.template operator()<Plain<float>>();
    case DType::kBFloat16:
      return function.template operator()<BFloat16>();
    case DType::kFloat16:
      return function.template operator()<Float16>();
  }
}

}  // namespace lace::reference
