// The softcap's tanh, which the GPU kernels compute too, against libm's.

#include "kernels/cuda/softcap.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace lace::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(Softcap, TanhIsPreciseHoweverSmallItIs) {
  double worst = 0;
  for (float x = 0x1p-120f; x < 0x1p20f; x *= 1.0003f) {
    const double want = std::tanh(static_cast<double>(x));
    const double error = std::fabs(cuda::precise_tanh(x) / want - 1);
    worst = std::max(worst, error);
    ASSERT_LT(error, 0x1p-20) << x;
    ASSERT_EQ(cuda::precise_tanh(-x), -cuda::precise_tanh(x)) << x;
  }
  EXPECT_GT(worst, 0);
}

TEST(Softcap, TanhStaysWithinOne) {
  for (float x = 1; x < 100; x += 0x1p-7f) {
    ASSERT_LE(cuda::precise_tanh(x), 1) << x;
  }
  EXPECT_EQ(cuda::precise_tanh(0), 0);
  EXPECT_EQ(cuda::precise_tanh(kInfinity), cuda::precise_tanh(1e30f));
  EXPECT_EQ(cuda::precise_tanh(-kInfinity), -cuda::precise_tanh(1e30f));
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
