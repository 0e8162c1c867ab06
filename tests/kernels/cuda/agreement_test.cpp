#include <cstdlib>
#include <random>

#include <gtest/gtest.h>

#include "lace/error.h"

#include "kernels/cases.h"
#include "kernels/compare.h"
#include "kernels/cuda/cuda_machine.h"
#include "kernels/cuda/portable/launch.h"

namespace lace::test {
namespace {

// Fresh in every run; LACE_TEST_SEED repeats one.
uint64_t seed_of_run() {
  static const uint64_t seed = [] {
    const char* given = std::getenv("LACE_TEST_SEED");
    return given ? std::strtoull(given, nullptr, 10) : std::random_device()();
  }();
  return seed;
}

// The CPU kernels' cases of head_dims that GPU kernels take, float32 as float16.
std::vector<Case> cuda_cases() {
  std::vector<Case> cases = all_cases();
  std::erase_if(cases, [](const Case& problem) {
    const auto is_other = [](int64_t dim) { return dim % 8 != 0 || dim > 256; };
    return problem.dtype == DType::kFloat16 || is_other(problem.qk_dim) || is_other(problem.v_dim);
  });
  for (Case& problem : cases) {
    if (problem.dtype == DType::kFloat32) problem.dtype = DType::kFloat16;
  }
  return cases;
}

class CudaAgreement : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (!no_gpu().empty()) GTEST_SKIP() << "no GPU: " << no_gpu();
  }
};

// The tiles that `kernel` is tried with.
std::vector<KernelTiles> tiles_of(const Kernel& kernel, const Case& problem,
                                  const AttentionShape& shape) {
  const KernelTiles own = kernel.tiles(shape);
  if (kernel.name == "cuda_portable") {
    // A case that asks for tiles gets them.
    const KernelTiles asked{problem.tile, problem.tile};
    return {problem.tile == TileShape{64, 64} ? own : asked};
  }
  // Those of forward where a query sees many keys, and where it sees few.
  if (shape.qk_dim <= 64 && shape.v_dim <= 64) {
    return {own, {{192, 128}, own.transposed}, {{128, 64}, own.transposed}};
  }
  return {own};
}

void expect_agreement(const Kernel& kernel, const Case& shape, const KernelTiles& tiles) {
  const auto threads = make_thread_pool(4);
  const Kernel& reference = find_kernel("reference");
  const Problem problem(shape, seed_of_run(), tiles);
  const Forward forward = problem.forward(reference, *threads);
  const Tolerances allowed = gpu_tolerances(shape.dtype, problem.max_logit());
  CudaMachine machine;
  const Forward got = problem.forward(kernel, *threads, machine);
  expect_close(got, forward, allowed);
  const Forward again = problem.forward(kernel, *threads, machine);
  EXPECT_TRUE(again.out == got.out && again.lse == got.lse) << "forward does not repeat";
  // Backward takes the kernel's own tiles.
  if (kernel.name == "cuda_sm90" && tiles.forward != kernel.tiles(problem.shape()).forward) return;
  const Backward backward = problem.backward(reference, *threads, forward);
  const Backward gradients = problem.backward(kernel, *threads, forward, machine);
  expect_close(gradients, backward, allowed);
  const Backward repeated = problem.backward(kernel, *threads, forward, machine);
  EXPECT_TRUE(repeated.dq == gradients.dq && repeated.dk == gradients.dk &&
              repeated.dv == gradients.dv)
      << "deterministic backward does not repeat";
  CudaMachine free_order(false);
  SCOPED_TRACE("not deterministic");
  expect_close(problem.backward(kernel, *threads, forward, free_order), backward, allowed);
}

TEST_P(CudaAgreement, WithReference) {
  const Case& shape = GetParam();
  int compared = 0;
  for (const Kernel& kernel : kernels()) {
    if (kernel.device != Device::kCuda) continue;
    const AttentionShape asked = Problem(shape, 1).shape();
    if (!kernel.unavailable().empty() || !kernel.unsupported(asked).empty()) continue;
    for (const KernelTiles& tiles : tiles_of(kernel, shape, asked)) {
      SCOPED_TRACE(concat(kernel.name, ", tiles of ", tiles.forward.owners, " queries x ",
                          tiles.forward.others, " keys, LACE_TEST_SEED=", seed_of_run()));
      expect_agreement(kernel, shape, tiles);
      ++compared;
    }
  }
  EXPECT_GT(compared, 0);
}

INSTANTIATE_TEST_SUITE_P(Kernels, CudaAgreement, testing::ValuesIn(cuda_cases()),
                         [](const auto& info) { return info.param.name(); });

// What GPUs with less shared memory do in backward.
TEST(CudaPortable, AgreesInLessSharedMemory) {
  if (!no_gpu().empty()) GTEST_SKIP() << "no GPU: " << no_gpu();
  const Kernel& kernel = find_kernel("cuda_portable");
  for (const int kibibytes : {99, 120, 150}) {
    for (const int64_t dim : {64, 128}) {
      const Case shape{.pattern = "local(64) | strided(64)",
                       .dtype = DType::kBFloat16,
                       .q_len = 700,
                       .k_len = 700,
                       .qk_dim = dim,
                       .v_dim = dim};
      SCOPED_TRACE(concat(kibibytes, " KiB, head_dim ", dim));
      cuda::portable::limit_tile_memory(kibibytes * 1024);
      expect_agreement(kernel, shape, kernel.tiles(Problem(shape, 1).shape()));
    }
  }
  cuda::portable::limit_tile_memory(0);
}

}  // namespace
}  // namespace lace::test
