#include <cmath>

#include <gtest/gtest.h>

#include "kernels/cases.h"
#include "kernels/problem.h"
#include "kernels/tolerances.h"

namespace lace::test {
namespace {

uint64_t seed_of(const Case& problem) {
  uint64_t seed = 1469598103934665603u;
  for (const char c : problem.name())
    seed = (seed ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return seed;
}

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
  EXPECT_LE(error.rms, tolerance.rms * size.rms) << what;
}

class Agreement : public testing::TestWithParam<Case> {};

TEST_P(Agreement, WithReference) {
  const Problem problem(GetParam(), seed_of(GetParam()));
  const auto threads = make_thread_pool(2);
  const Kernel& reference = find_kernel("reference");
  const Forward forward = problem.forward(reference, *threads);
  const Backward backward = problem.backward(reference, *threads, forward);
  const Tolerances allowed = tolerances(GetParam().dtype, problem.max_logit());
  Size size;
  for (const auto* gradient : {&backward.dq, &backward.dk, &backward.dv}) {
    size.max = std::max(size.max, size_of(*gradient).max);
    size.rms = std::max(size.rms, size_of(*gradient).rms);
  }
  int compared = 0;
  for (const Kernel& kernel : kernels()) {
    if (kernel.device != Device::kCpu || kernel.name == "reference") continue;
    if (!kernel.unavailable().empty() || !kernel.unsupported(problem.shape()).empty()) continue;
    SCOPED_TRACE(std::string(kernel.name));
    const Forward got = problem.forward(kernel, *threads);
    expect_close("out", got.out, forward.out, allowed.out, size_of(forward.out));
    expect_close("lse", got.lse, forward.lse, {allowed.lse, allowed.lse}, {1, 1});
    const Backward gradients = problem.backward(kernel, *threads, forward);
    // dq and dk are sums of dS = p · (dout·v − delta), whose terms may cancel: their accuracy is
    // relative to the gradients at large.
    expect_close("dq", gradients.dq, backward.dq, allowed.gradients, size);
    expect_close("dk", gradients.dk, backward.dk, allowed.gradients, size);
    expect_close("dv", gradients.dv, backward.dv, allowed.gradients, size);
    ++compared;
  }
  EXPECT_GT(compared, 0);
}

INSTANTIATE_TEST_SUITE_P(Kernels, Agreement, testing::ValuesIn(all_cases()),
                         [](const auto& info) { return info.param.name(); });

}  // namespace
}  // namespace lace::test
