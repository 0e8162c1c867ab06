// The softcap's tanh against libm's: the same polynomials as on a GPU, but not its instructions.

#include "kernels/cuda/softcap.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace lace::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(Softcap, TanhIsPreciseHoweverSmallItIs) {
  for (float x = 0x1p-120f; x < 0x1p20f; x *= 1.0003f) {
    const double want = std::tanh(static_cast<double>(x));
    const double error = std::fabs(cuda::precise_tanh(x) / want - 1);
    ASSERT_LT(error, 0x1p-20) << x;
    ASSERT_EQ(cuda::precise_tanh(-x), -cuda::precise_tanh(x)) << x;
  }
}

TEST(Softcap, TanhOfFarNumbersHasNoSlope) {
  EXPECT_EQ(cuda::precise_tanh(0), 0);
  for (const float far : {8.0f, 1e10f, 1e30f, kInfinity}) {
    // With room for a reciprocal that is an ulp less.
    EXPECT_GT(cuda::precise_tanh(far), 1);
    EXPECT_EQ(cuda::precise_tanh(-far), -cuda::precise_tanh(far));
    EXPECT_EQ(cuda::slope_of_tanh(cuda::precise_tanh(far)), 0);
  }
  EXPECT_TRUE(std::isnan(cuda::precise_tanh(std::numeric_limits<float>::quiet_NaN())));
}

TEST(Softcap, ScaleOfTheTanhIsNeitherZeroNorInfinite) {
  EXPECT_EQ(cuda::cap_scale(0.125, 50), 0.0025f);
  EXPECT_EQ(cuda::cap_scale(-0.125, 50), -0.0025f);
  EXPECT_EQ(cuda::cap_scale(0, 2), std::numeric_limits<float>::min());
  EXPECT_EQ(cuda::cap_scale(1e30, 0x1p-64), std::numeric_limits<float>::max());
}

}  // namespace
}  // namespace lace::test
