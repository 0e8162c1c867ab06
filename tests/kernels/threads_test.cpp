#include <gtest/gtest.h>

#include "kernels/problem.h"

namespace lace::test {
namespace {

const Case kCases[] = {
    {.pattern = "dense", .heads = 1, .kv_heads = 1, .q_len = 700, .k_len = 700},
    {.pattern = "local(40) | strided(16)", .heads = 3, .kv_heads = 1, .q_len = 400, .k_len = 400},
    {.pattern = "block(64) | summary(64, 16)", .q_len = 600, .k_len = 600},
    {.pattern = "bidirectional(local(64) | global(20))", .q_len = 500, .k_len = 500},
    {.pattern = "heads(1*strided(6) | strided(7), 1*local(200) | sinks(4))",
     .kv_heads = 1,
     .q_len = 450,
     .k_len = 450},
};

template <typename Result>
std::vector<double> joined(const Result& result) {
  std::vector<double> all = result[0];
  for (size_t i = 1; i < result.size(); ++i) {
    all.insert(all.end(), result[i].begin(), result[i].end());
  }
  return all;
}

// Everything a kernel computes, on `executor`.
std::vector<double> results(const Problem& problem, const Kernel& kernel,
                            const Executor& executor) {
  const Forward forward = problem.forward(kernel, executor);
  const Backward backward = problem.backward(kernel, executor, forward);
  return joined(std::vector{forward.out, backward.dq, backward.dk, backward.dv});
}

TEST(Threads, ResultsDoNotDependOnTheirNumber) {
  uint64_t seed = 7;
  for (Case shape : kCases) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      shape.dtype = dtype;
      const Problem problem(shape, seed++);
      for (const Kernel& kernel : kernels()) {
        if (kernel.device != Device::kCpu || !kernel.unavailable().empty()) continue;
        if (!kernel.unsupported(problem.shape()).empty() || kernel.name == "reference") continue;
        SCOPED_TRACE(shape.name() + " " + std::string(kernel.name));
        const std::vector<double> one = results(problem, kernel, *make_thread_pool(1));
        for (const int threads : {2, 3, 3, 5}) {
          EXPECT_EQ(results(problem, kernel, *make_thread_pool(threads)), one) << threads;
        }
        EXPECT_EQ(results(problem, kernel, SerialExecutor(4)), one) << "one after the other";
      }
    }
  }
}

}  // namespace
}  // namespace lace::test
