#include <gtest/gtest.h>

#include "kernels/cases.h"
#include "kernels/compare.h"
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

class Agreement : public testing::TestWithParam<Case> {};

TEST_P(Agreement, WithReference) {
  const Problem problem(GetParam(), seed_of(GetParam()));
  const auto threads = make_thread_pool(2);
  const Kernel& reference = find_kernel("reference");
  const Forward forward = problem.forward(reference, *threads);
  const Backward backward = problem.backward(reference, *threads, forward);
  const Tolerances allowed = tolerances(GetParam().dtype, problem.max_logit());
  int compared = 0;
  for (const Kernel& kernel : kernels()) {
    if (kernel.device != Device::kCpu || kernel.name == "reference") continue;
    if (!kernel.unavailable().empty() || !kernel.unsupported(problem.shape()).empty()) continue;
    SCOPED_TRACE(std::string(kernel.name));
    const Forward got = problem.forward(kernel, *threads);
    expect_close(got, forward, allowed);
    const Backward gradients = problem.backward(kernel, *threads, forward);
    expect_close(gradients, backward, allowed);
    ++compared;
  }
  EXPECT_GT(compared, 0);
}

INSTANTIATE_TEST_SUITE_P(Kernels, Agreement, testing::ValuesIn(all_cases()),
                         [](const auto& info) { return info.param.name(); });

}  // namespace
}  // namespace lace::test
