// A wrong argument is named before any work is done.

#include <cmath>
#include <functional>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "lace/attention.h"

#include "ops/attention_call.h"
#include "ops/torch_context.h"

namespace lace {
namespace {

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no lace::Error";
}

std::string error_of(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const Pattern& pattern = dense(), const AttentionOptions& options = {}) {
  return error_of([&] { attention(q, k, v, pattern, options); });
}

TEST(AttentionArguments, EachRuleIsNamed) {
  const at::Tensor q = at::zeros({2, 4, 8, 64});
  auto zeros = [](at::IntArrayRef sizes) { return at::zeros(sizes); };
  EXPECT_EQ(error_of(q, zeros({2, 4, 8, 48}), q), "[attention] head_dim of k is 48, q has 64");
  EXPECT_EQ(error_of(q, zeros({3, 4, 8, 64}), q), "[attention] batch of k is 3, q has 2");
  EXPECT_EQ(error_of(q, q, zeros({3, 4, 8, 64})), "[attention] batch of v is 3, q has 2");
  EXPECT_EQ(error_of(q, q, zeros({2, 2, 8, 64})), "[attention] heads of v is 2, k has 4");
  EXPECT_EQ(error_of(q, q, zeros({2, 4, 9, 64})), "[attention] seq_len of v is 9, k has 8");
  EXPECT_EQ(error_of(q, zeros({2, 3, 8, 64}), zeros({2, 3, 8, 64})),
            "[attention] heads of q must be a multiple of the heads of k, got 4 and 3");
  EXPECT_EQ(error_of(q, zeros({2, 4, 7, 64}), zeros({2, 4, 7, 64})),
            "[attention] seq_len of q must be from 1 to that of k, got 8 and 7");
  EXPECT_EQ(error_of(zeros({4, 8, 64}), q, q),
            "[attention] q must have the shape [batch, heads, seq_len, head_dim], got [4, 8, 64]");
  EXPECT_EQ(error_of(q, q.to(at::kBFloat16), q),
            "[attention] dtype of k is bfloat16, q has float32");
  EXPECT_EQ(error_of(q.to(at::kLong), q.to(at::kLong), q.to(at::kLong)),
            "[attention] dtype must be float32, bfloat16, float16 or float64, got Long");
  EXPECT_EQ(error_of(q, q.to(at::kMeta), q), "[attention] k is on meta, q is on cpu");
  EXPECT_EQ(error_of(q, q, at::Tensor()), "[attention] v is an undefined tensor");
  EXPECT_EQ(error_of(at::Tensor(), q, q), "[attention] q is an undefined tensor");
  EXPECT_EQ(error_of(q, q, q, dense(), {.scale = std::nan("")}),
            "[attention] scale must be finite, got nan");
  EXPECT_EQ(error_of(q, q, q, dense(), {.scale = 1e39}),
            "[attention] scale must be less than 2^127 in size, got 1e+39");
  EXPECT_EQ(error_of(q, q, q, dense(), {.softcap = 0.0}),
            "[attention] softcap must be positive and finite, got 0");
  EXPECT_EQ(error_of(q, q, q, dense(), {.softcap = 1e20}),
            "[attention] softcap must be from 2^-64 to 2^64, got 1e+20");
  EXPECT_EQ(error_of(q, q, q, dense(), {.scale = -INFINITY}),
            "[attention] scale must be finite, got -inf");
  EXPECT_EQ(error_of(zeros({2, 4, 8, 0}), zeros({2, 4, 8, 0}), q),
            "[attention] head_dim must be positive, got 0 for q and 64 for v");
}

// Of float32's denormal numbers and what is smaller yet, kernels make 0 · ∞ of a dead pair.
TEST(AttentionArguments, ScalesThatAreNoNormalNumbersCountAsZero) {
  const at::Tensor q = at::randn({2, 4, 90, 16}).requires_grad_();
  const auto run = [&](double scale) {
    const at::Tensor out = attention(q, q, q, local(40), {.scale = scale});
    return std::pair(out, torch::autograd::grad({out}, {q}, {at::ones_like(out)}).front());
  };
  const auto [out, gradient] = run(0);
  EXPECT_TRUE(at::allclose(out.select(2, 39), q.slice(2, 0, 40).mean(2), 1e-5, 1e-6));
  for (const double scale : {1e-46, -1e-46, 1e-40, -1e-39, 1e-300}) {
    const auto [got, got_gradient] = run(scale);
    EXPECT_TRUE(at::equal(got, out)) << scale;
    EXPECT_TRUE(at::equal(got_gradient, gradient)) << scale;
  }
}

TEST(AttentionArguments, TorchAsksForDeterminism) {
  EXPECT_FALSE(ops::make_torch_context(at::kCPU, false).deterministic);
  at::globalContext().setDeterministicAlgorithms(true, false);
  EXPECT_TRUE(ops::make_torch_context(at::kCPU, false).deterministic);
  at::globalContext().setDeterministicAlgorithms(true, true);  // warn_only
  EXPECT_TRUE(ops::make_torch_context(at::kCPU, false).deterministic);
  at::globalContext().setDeterministicAlgorithms(false, false);
  EXPECT_TRUE(ops::make_torch_context(at::kCPU, true).deterministic);
}

TEST(AttentionArguments, PatternMustFitTheHeads) {
  const at::Tensor q = at::zeros({1, 4, 8, 16});
  const Pattern pattern = heads({{3, dense()}, {2, local(4)}});
  EXPECT_NE(error_of(q, q, q, pattern), "no lace::Error");
}

TEST(AttentionArguments, SinksAreCheckedToo) {
  const auto zeros = [](at::IntArrayRef sizes) { return at::zeros(sizes); };
  const at::Tensor q = at::randn({1, 4, 8, 16});
  const auto with = [&](const at::Tensor& sinks) {
    return error_of(q, q, q, dense(), {.sinks = sinks});
  };
  EXPECT_EQ(with(zeros({3})), "[attention] sinks must have the shape [heads] = [4], got [3]");
  EXPECT_EQ(with(zeros({4, 1})), "[attention] sinks must have the shape [heads] = [4], got [4, 1]");
  EXPECT_EQ(with(zeros({4}).to(at::kMeta)), "[attention] sinks are on meta, q is on cpu");
  EXPECT_EQ(with(zeros({4}).to(at::kLong)),
            "[attention] dtype must be float32, bfloat16, float16 or float64, got Long");
}

TEST(AttentionArguments, BackwardChecksItsOwn) {
  const at::Tensor q = at::randn({1, 2, 8, 16});
  const auto [out, lse] = attention_with_lse(q, q, q, dense());
  auto call = [&](const at::Tensor& dout, const at::Tensor& o, const at::Tensor& l,
                  const at::Tensor& dlse = {}) {
    return error_of([&] { ops::attention_backward({dout, dlse}, q, q, q, o, l, dense(), {}); });
  };
  EXPECT_EQ(call(at::zeros({1, 2, 8, 8}), out, lse),
            "[attention_backward] shape of dout is [1, 2, 8, 8], out has [1, 2, 8, 16]");
  EXPECT_EQ(call(out.to(at::kDouble), out, lse),
            "[attention_backward] dtype of dout is float64, out has float32");
  EXPECT_EQ(call(out, out.slice(2, 1), lse),
            "[attention_backward] out must be what attention returned, got the shape "
            "[1, 2, 7, 16]");
  EXPECT_EQ(call(out, out, lse.to(at::kDouble)),
            "[attention_backward] lse must be what attention returned, got float64 of the shape "
            "[1, 2, 8]");
  EXPECT_EQ(call(out, out, lse, at::zeros({1, 2, 7})),
            "[attention_backward] dlse must have the shape and dtype of lse, got float32 of the "
            "shape [1, 2, 7]");
  EXPECT_EQ(call(out, out, lse, lse), "no lace::Error");
}

}  // namespace
}  // namespace lace
