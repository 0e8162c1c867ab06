// float64 in plain loops, one number at a time.

#include <cmath>

#include "kernels/decode/cpu/functions_impl.h"

namespace lace::cpu {
namespace {

// A vector of one number, with what the functions of decoding take of kernels/cpu/simd.h.
struct Plain {
  static constexpr int kLanes = 1;
  using F = double;
  static F zero() { return 0; }
  static F set(double x) { return x; }
  static F load(const double* p) { return *p; }
  static void store(double* p, F x) { *p = x; }
  static F load_first(const double* p, int) { return *p; }
  static void store_first(double* p, F x, int) { *p = x; }
  static F add(F a, F b) { return a + b; }
  static F sub(F a, F b) { return a - b; }
  static F mul(F a, F b) { return a * b; }
  static F div(F a, F b) { return a / b; }
  static F max(F a, F b) { return a > b ? a : b; }
  static F keep(uint32_t bits, F x, F otherwise) { return (bits & 1) != 0 ? x : otherwise; }
  static F exp2(F x) { return std::exp2(x); }
  static void transpose(F (&)[kLanes]) {}
  struct Fma {
    static F apply(F acc, F a, F b) { return acc + a * b; }
  };
};

}  // namespace

const DecodeFunctions kDecodeFloat64 = decode_functions<Plain, double, double>();

}  // namespace lace::cpu
