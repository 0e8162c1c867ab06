#include "train/step_parts.h"

#include <gtest/gtest.h>

namespace lace::train {
namespace {

TEST(StepParts, GoByTheNamesOfKernels) {
  const std::pair<const char*, StepPart> cases[] = {
      {"nvjet_sm90_hsh_128x256_64x4_1x2_h_bz_coopA_bias_TNN", StepPart::kProducts},
      {"void cutlass::Kernel2<cutlass_80_tensorop_s16816gemm_bf16_64x64_sliced1x2>(Params)",
       StepPart::kProducts},
      {"void cublasLt::splitKreduce_kernel<32, 16, int, float>(Params)", StepPart::kProducts},
      {"void gemmSN_TN_kernel<float, 128, 16, 2, 4, 4, 4, true>(Params)", StepPart::kProducts},
      {"void cutlass::device_kernel<cutlass::gemm::kernel::GemmUniversal<cute::tuple<int, int>, "
       "cutlass::epilogue::fusion::Sm90Compute<lace::cuda::products::GeluGrad, float> > >(Params)",
       StepPart::kProducts},
      {"void lace::sm90::attention_forward_kernel<lace::sm90::ForwardConfig<64, "
       "cutlass::bfloat16_t> >(lace::sm90::ForwardParams)",
       StepPart::kAttentionForward},
      {"void lace::cuda::(anonymous namespace)::forward_kernel<float, 64, 64>(ForwardLaunch)",
       StepPart::kAttentionForward},
      // Longer names than the profiler demangles stay as they are.
      {"_ZN4lace4sm9025attention_backward_kernelINS0_14BackwardConfigILi64EEEEvNS0_6ParamsE",
       StepPart::kAttentionBackward},
      {"void lace::cuda::statistics_kernel<__nv_bfloat16>(lace::cuda::RowsShape)",
       StepPart::kAttentionBackward},
      {"void lace::cuda::round_kernel<__nv_bfloat16>(lace::cuda::RowsShape)",
       StepPart::kAttentionBackward},
      {"void lace::cuda::elementwise::(anonymous namespace)::norm_grad_kernel<float>(Norm)",
       StepPart::kElementwise},
      {"lace::cuda::elementwise::(anonymous namespace)::finish_kernel(float const*, long)",
       StepPart::kElementwise},
      {"lace::cuda::elementwise::(anonymous namespace)::squares_kernel(float const*)",
       StepPart::kOptimizer},
      {"lace::cuda::elementwise::(anonymous namespace)::state_kernel(Squares const*)",
       StepPart::kOptimizer},
      {"void lace::cuda::elementwise::(anonymous namespace)::update_kernel<float>(Adam<float>)",
       StepPart::kOptimizer},
      {"void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float> >(int)",
       StepPart::kOther},
      {"void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float> >(ReduceOp)",
       StepPart::kOther},
      {"Memcpy HtoD (Pinned -> Device)", StepPart::kOther},
      {"Memset (Device)", StepPart::kOther},
  };
  for (const auto& [span, part] : cases) EXPECT_EQ(name(step_part(span)), name(part)) << span;
}

TEST(StepParts, AddUpToTheTimeInWhichAnythingRan) {
  constexpr int64_t kStart = 1'000'000'000'000, kMs = 1'000'000;
  // A copy beside a product, a kernel wholly within it, and one that outlasts it.
  const StepTimes times = step_times({
      {"nvjet_a", kStart, kStart + 4 * kMs},
      {"Memcpy HtoD (Pinned -> Device)", kStart + kMs, kStart + 2 * kMs},
      {"lace::sm90::attention_forward_kernel", kStart + 3 * kMs, kStart + 6 * kMs},
      {"nvjet_b", kStart + 8 * kMs, kStart + 9 * kMs},
  });
  EXPECT_DOUBLE_EQ(times.of(StepPart::kProducts), 5);
  EXPECT_DOUBLE_EQ(times.of(StepPart::kAttentionForward), 2);
  EXPECT_DOUBLE_EQ(times.of(StepPart::kOther), 0);
  EXPECT_DOUBLE_EQ(times.busy_ms, 7);
  EXPECT_DOUBLE_EQ(times.extent_ms, 9);
  EXPECT_EQ(step_times({}).busy_ms, 0);
}

TEST(StepParts, OperationsAreThoseOfTheModel) {
  // The paper's Enwik8 model, dense: 27.87 · 10¹² of products, 7 products of 64 a live pair.
  ModelConfig model;
  model.seq_len = 12288;
  model.layers = 30;
  model.d_model = 512;
  model.heads = 8;
  const double tokens = 4 * 12288, weights = 30 * 12.0 * 512 * 512 + 512 * 256;
  EXPECT_DOUBLE_EQ(step_operations(model, 4, 0), 6 * tokens * weights);
  const double pairs = 30 * 8 * (12288.0 * 12289 / 2);
  EXPECT_DOUBLE_EQ(step_operations(model, 4, pairs) - step_operations(model, 4, 0),
                   4 * 14 * 64 * pairs);
  // Half-size heads: q and k of 64, v of 128.
  model.heads = 2;
  model.d_model = 256;
  model.qk_dim = 128;
  model.layers = 1;
  model.ff_multiple = 2;
  const double half = 256.0 * (128 + 128 + 256) + 256 * 256 + 2 * 256 * 512 + 256 * 256;
  EXPECT_DOUBLE_EQ(step_operations(model, 1, 0), 6 * 12288.0 * half);
  EXPECT_DOUBLE_EQ(step_operations(model, 1, 10) - step_operations(model, 1, 0),
                   2 * 10 * (4 * 64 + 3 * 128));
}

}  // namespace
}  // namespace lace::train
