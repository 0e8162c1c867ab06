#include <algorithm>
#include <cstdlib>
#include <string>

#include <gtest/gtest.h>

#include "lace/error.h"

#include "kernels/problem.h"

namespace lace::test {
namespace {

// Sets LACE_KERNEL for its lifetime.
class ForcedKernel {
 public:
  explicit ForcedKernel(const std::string& name) { setenv("LACE_KERNEL", name.c_str(), 1); }
  ~ForcedKernel() { unsetenv("LACE_KERNEL"); }
};

AttentionShape shape_of(DType dtype, int64_t head_dim) {
  return {Device::kCpu, dtype, 1, 2, 2, 10, 10, head_dim, head_dim};
}

std::string error_of(const AttentionShape& shape) {
  try {
    select_kernel(shape);
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

TEST(Dispatch, TableIsBestFirst) {
  std::vector<std::string> names;
  for (const Kernel& kernel : kernels()) names.emplace_back(kernel.name);
  const std::vector<std::string> cpu = {"cpu_avx512_bf16", "cpu_avx512", "cpu_avx2", "cpu_portable",
                                        "reference"};
  ASSERT_GE(names.size(), cpu.size());
  EXPECT_EQ(std::vector(names.end() - 5, names.end()), cpu);
}

TEST(Dispatch, PicksTheFirstThatCan) {
  const AttentionShape shape = shape_of(DType::kFloat32, 64);
  for (const Kernel& kernel : kernels()) {
    if (kernel.device != Device::kCpu || !kernel.unavailable().empty()) continue;
    EXPECT_EQ(select_kernel(shape).name, kernel.name);
    break;
  }
  EXPECT_EQ(select_kernel(shape_of(DType::kFloat64, 64)).name, "reference");
  EXPECT_EQ(select_kernel(shape_of(DType::kFloat32, 513)).name, "reference");
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (const int64_t head_dim : {1, 3, 33, 36, 100, 264, 512}) {
      EXPECT_NE(select_kernel(shape_of(dtype, head_dim)).name, "reference") << head_dim;
    }
  }
}

TEST(Dispatch, TellsWhichBetterOnesWerePassedOver) {
  const auto passed_over = [](const AttentionShape& shape) -> std::string {
    std::string reasons = "of before";
    select_kernel(shape, &reasons);
    return reasons;
  };
  EXPECT_EQ(passed_over(shape_of(DType::kFloat32, 16)), "");
  EXPECT_EQ(passed_over(shape_of(DType::kFloat16, 36)), "");
  const std::string reasons = passed_over(shape_of(DType::kFloat64, 16));
  EXPECT_NE(reasons.find("cpu_portable: dtype float64 is "), std::string::npos) << reasons;
  EXPECT_EQ(reasons.find("reference"), std::string::npos) << reasons;
  EXPECT_EQ(reasons.find('\n', 1), std::string::npos) << "a line for each kernel: " << reasons;
  const ForcedKernel forced("reference");
  EXPECT_EQ(passed_over(shape_of(DType::kFloat64, 16)), "");
}

TEST(Dispatch, FillsHeadDimsUpToWhatAKernelTakes) {
  AttentionShape shape = shape_of(DType::kBFloat16, 36);
  shape.v_dim = 80;
  shape.aligned = false;
  Kernel kernel = find_kernel("reference");
  EXPECT_EQ(filled(kernel, shape).qk_dim, 36);
  EXPECT_FALSE(filled(kernel, shape).aligned);
  kernel.dim_multiple = [](const AttentionShape&) -> int64_t { return 8; };
  EXPECT_EQ(filled(kernel, shape).qk_dim, 40);
  EXPECT_EQ(filled(kernel, shape).v_dim, 80);
  EXPECT_TRUE(filled(kernel, shape).aligned) << "what is filled is a copy";
  shape.qk_dim = 40;
  EXPECT_FALSE(filled(kernel, shape).aligned);
}

TEST(Dispatch, ForcesByName) {
  for (const Kernel& kernel : kernels()) {
    if (kernel.device != Device::kCpu || !kernel.unavailable().empty()) continue;
    const ForcedKernel forced{std::string(kernel.name)};
    EXPECT_EQ(select_kernel(shape_of(DType::kFloat32, 64)).name, kernel.name);
  }
}

TEST(Dispatch, UnknownNameListsAll) {
  const ForcedKernel forced("cpu_mmx");
  const std::string error = error_of(shape_of(DType::kFloat32, 64));
  EXPECT_NE(error.find("'cpu_mmx'"), std::string::npos) << error;
  for (const Kernel& kernel : kernels()) {
    EXPECT_NE(error.find(kernel.name), std::string::npos) << error;
  }
}

TEST(Dispatch, ABuildWithoutCudaSaysSo) {
  const std::string reason = "this lace was built without CUDA";
  for (const std::string_view name : kernels_without_cuda()) {
    const ForcedKernel forced{std::string(name)};
    EXPECT_EQ(error_of(shape_of(DType::kFloat32, 64)),
              concat("[kernel] ", name, " is not there: ", reason));
  }
  AttentionShape shape = shape_of(DType::kFloat32, 520);
  shape.device = Device::kCuda;
  EXPECT_EQ(error_of(shape).find(reason) == std::string::npos, kernels_without_cuda().empty());
  const bool any = std::any_of(kernels().begin(), kernels().end(),
                               [](const Kernel& kernel) { return kernel.device == Device::kCuda; });
  EXPECT_EQ(any, kernels_without_cuda().empty());
}

TEST(Dispatch, ForcedOneThatCannotRunSaysWhy) {
  const ForcedKernel forced("cpu_portable");
  EXPECT_EQ(error_of(shape_of(DType::kFloat64, 64)),
            "[attention] LACE_KERNEL=cpu_portable cannot run: dtype float64 is none of float32, "
            "bfloat16 and float16");
  EXPECT_EQ(error_of(shape_of(DType::kFloat32, 520)),
            "[attention] LACE_KERNEL=cpu_portable cannot run: head_dim 520 is more than 512");
}

TEST(Dispatch, NeverCrossesDevices) {
  AttentionShape shape = shape_of(DType::kFloat32, 64);
  shape.device = Device::kCuda;
  const ForcedKernel forced("reference");
  EXPECT_EQ(
      error_of(shape),
      "[attention] LACE_KERNEL=reference cannot run: it runs on cpu, the tensors are on cuda");
}

TEST(Dispatch, LastKernelTellsWhichRan) {
  const Case shape{.q_len = 20, .k_len = 20};
  const Problem problem(shape, 1);
  const SerialExecutor executor(1);
  for (const Kernel& kernel : kernels()) {
    if (kernel.device != Device::kCpu || !kernel.unavailable().empty()) continue;
    const ForcedKernel forced{std::string(kernel.name)};
    const Kernel& selected = select_kernel(problem.shape());
    const Forward forward = problem.forward(selected, executor);
    EXPECT_EQ(last_kernel(), kernel.name);
    problem.forward(find_kernel("reference"), executor);
    EXPECT_EQ(last_kernel(), "reference");
    problem.backward(selected, executor, forward);
    EXPECT_EQ(last_kernel(), kernel.name);
  }
}

}  // namespace
}  // namespace lace::test
