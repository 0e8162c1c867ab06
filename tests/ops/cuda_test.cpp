// lace::attention on CUDA tensors.

#include <ATen/autocast_mode.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "lace/attention.h"
#include "lace/error.h"

namespace lace::test {
namespace {

class CudaAttention : public testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU";
  }
};

at::Tensor random(int64_t heads, int64_t rows, int64_t dim, at::ScalarType dtype = at::kBFloat16) {
  return at::randn({2, heads, rows, dim}, at::device(at::kCUDA).dtype(dtype));
}

double relative_error(const at::Tensor& got, const at::Tensor& want) {
  const at::Tensor wanted = want.cpu().to(at::kDouble);
  const at::Tensor difference = got.cpu().to(at::kDouble) - wanted;
  return (difference.norm() / wanted.norm()).item<double>();
}

TEST_F(CudaAttention, AgreesWithFloat64OnTheCpu) {
  for (const auto dtype : {at::kBFloat16, at::kHalf}) {
    for (const char* text : {"dense", "local(64) | strided(64)", "fixed(64, 16, 2)",
                             "bidirectional(local(50) | global(2))"}) {
      SCOPED_TRACE(text);
      const Pattern pattern = Pattern::parse(text);
      std::vector<at::Tensor> inputs = {random(4, 500, 64, dtype), random(2, 500, 64, dtype),
                                        random(2, 500, 64, dtype)};
      std::vector<at::Tensor> wide;
      for (at::Tensor& input : inputs) {
        wide.push_back(input.cpu().to(at::kDouble).requires_grad_());
        input.requires_grad_();
      }
      const auto [out, lse] = attention_with_lse(inputs[0], inputs[1], inputs[2], pattern);
      const auto [want, want_lse] = attention_with_lse(wide[0], wide[1], wide[2], pattern);
      EXPECT_LT(relative_error(out, want), 5e-3);
      EXPECT_LT(relative_error(lse, want_lse), 1e-5);
      const at::Tensor dout = at::randn_like(out);
      out.backward(dout);
      want.backward(dout.cpu().to(at::kDouble));
      for (size_t i = 0; i < 3; i++) {
        EXPECT_LT(relative_error(inputs[i].grad(), wide[i].grad()), 1e-2) << i;
      }
    }
  }
}

TEST_F(CudaAttention, SaysWhatWouldWork) {
  const at::Tensor q = random(1, 10, 12);
  try {
    attention(q, q, q, Pattern::parse("dense"));
    FAIL() << "no error";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("cuda_portable: head_dim 12 is not a multiple of 8"), std::string::npos)
        << text;
  }
}

TEST_F(CudaAttention, RunsOnTheCurrentStreamAndInGraphs) {
  const Pattern pattern = Pattern::parse("local(32) | strided(32)");
  const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool();
  const c10::cuda::CUDAStreamGuard guard(stream);
  const at::Tensor q = random(2, 300, 64), k = random(2, 300, 64), v = random(2, 300, 64);
  const at::Tensor want = attention(q, k, v, pattern);
  at::cuda::CUDAGraph graph;
  graph.capture_begin();
  const at::Tensor out = attention(q, k, v, pattern);
  graph.capture_end();
  out.fill_(NAN);
  graph.replay();
  stream.synchronize();
  EXPECT_TRUE(at::equal(out, want));

  at::cuda::CUDAGraph other;
  other.capture_begin();
  std::string error;
  try {
    attention(q, k, v, Pattern::parse("local(33)"));
  } catch (const Error& caught) {
    error = caught.what();
  }
  other.capture_end();
  EXPECT_NE(error.find("run the same call once before the capture"), std::string::npos) << error;
}

TEST_F(CudaAttention, AutocastRunsFloat32AsBFloat16) {
  const at::Tensor q = random(2, 100, 64, at::kFloat);
  at::autocast::set_autocast_enabled(at::kCUDA, true);
  at::autocast::set_autocast_dtype(at::kCUDA, at::kBFloat16);
  const at::Tensor out = attention(q, q, q, Pattern::parse("dense"));
  at::autocast::set_autocast_enabled(at::kCUDA, false);
  EXPECT_EQ(out.scalar_type(), at::kBFloat16);
}

}  // namespace
}  // namespace lace::test
