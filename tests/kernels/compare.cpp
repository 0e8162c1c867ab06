#include "kernels/compare.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

namespace lace::test {
namespace {

// The largest |value| and the root mean square.
struct Size {
  double max = 0, rms = 0;
};

Size size_of(const std::vector<double>& values) {
  Size size;
  double sum = 0;
  for (const double value : values) {
    size.max = std::max(size.max, std::fabs(value));
    sum += value * value;
  }
  size.rms = std::sqrt(sum / static_cast<double>(values.size()));
  return size;
}

// size: of what `tolerance` is a part.
void expect_close(const std::string& what, const std::vector<double>& got,
                  const std::vector<double>& want, Tolerance tolerance, Size size) {
  ASSERT_EQ(got.size(), want.size()) << what;
  std::vector<double> errors;
  size_t worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    // Infinities may be equal; a NaN is poison that was left.
    errors.push_back(got[i] == want[i] ? 0 : std::fabs(got[i] - want[i]));
    if (!(errors[i] <= errors[worst])) worst = i;
    ASSERT_FALSE(std::isnan(got[i])) << what << "[" << i << "]";
  }
  const Size error = size_of(errors);
  EXPECT_LE(error.max, tolerance.max * size.max)
      << what << "[" << worst << "] is " << got[worst] << ", not " << want[worst];
  // The rms of a few elements varies from draw to draw.
  const double few = 1 + 2 / std::sqrt(static_cast<double>(got.size()));
  EXPECT_LE(error.rms, few * tolerance.rms * size.rms) << what;
}

}  // namespace

void expect_close(const Forward& got, const Forward& want, const Tolerances& allowed) {
  expect_close("out", got.out, want.out, allowed.out, size_of(want.out));
  expect_close("lse", got.lse, want.lse, {allowed.lse, allowed.lse}, {1, 1});
}

void expect_close(const Backward& got, const Backward& want, const Tolerances& allowed) {
  Size size;
  for (const auto* gradient : {&want.dq, &want.dk, &want.dv}) {
    size.max = std::max(size.max, size_of(*gradient).max);
    size.rms = std::max(size.rms, size_of(*gradient).rms);
  }
  // dq and dk are sums of dS = p · (dout·v − delta), whose terms may cancel: their accuracy is
  // relative to the gradients at large.
  expect_close("dq", got.dq, want.dq, allowed.gradients, size);
  expect_close("dk", got.dk, want.dk, allowed.gradients, size);
  expect_close("dv", got.dv, want.dv, allowed.gradients, size);
}

}  // namespace lace::test
