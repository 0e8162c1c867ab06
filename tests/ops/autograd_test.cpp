// Gradients of lace::attention, and what it refuses to differentiate.

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "lace/attention.h"

#include "ops/dense_attention.h"

namespace lace {
namespace {

using test::dense_attention;
using test::random_leaf;
using torch::autograd::grad;

constexpr double kScale = 0.3;

// The loss whose gradients are compared.
at::Tensor weighted_sum(const at::Tensor& out, const at::Tensor& weights) {
  return (out * weights).sum();
}

// (loss(x + h) − loss(x − h)) / 2h of every element of `leaf`.
at::Tensor finite_differences(const at::Tensor& leaf, const std::function<at::Tensor()>& loss) {
  constexpr double kStep = 1e-5;
  at::NoGradGuard no_grad;
  at::Tensor result = at::zeros_like(leaf);
  const at::Tensor flat = leaf.view(-1), result_flat = result.view(-1);
  for (int64_t i = 0; i < flat.numel(); ++i) {
    const double value = flat[i].item<double>();
    flat[i] = value + kStep;
    const double above = loss().item<double>();
    flat[i] = value - kStep;
    const double below = loss().item<double>();
    flat[i] = value;
    result_flat[i] = (above - below) / (2 * kStep);
  }
  return result;
}

TEST(AttentionGradient, EqualsFiniteDifferences) {
  at::manual_seed(5);
  for (const char* text :
       {"dense", "local(3) | strided(4)", "summary(4, 1)", "bidirectional(block(4) | sinks(1))"}) {
    const Pattern pattern = Pattern::parse(text);
    const at::Tensor q = random_leaf({1, 2, 9, 4}, at::kDouble);
    const at::Tensor k = random_leaf({1, 1, 11, 4}, at::kDouble);
    const at::Tensor v = random_leaf({1, 1, 11, 3}, at::kDouble);
    const at::Tensor weights = at::randn({1, 2, 9, 3}, at::kDouble);
    auto loss = [&] {
      return weighted_sum(attention(q, k, v, pattern, {.scale = kScale}), weights);
    };
    const auto gradients = grad({loss()}, {q, k, v});
    size_t i = 0;
    for (const at::Tensor& leaf : {q, k, v}) {
      const at::Tensor difference = gradients[i++] - finite_differences(leaf, loss);
      EXPECT_LT(difference.abs().max().item<double>(), 1e-8) << text << ", input " << i - 1;
    }
  }
}

TEST(AttentionGradient, EqualsThatOfTheFormula) {
  at::manual_seed(6);
  const Pattern pattern = Pattern::parse("local(40) | strided(16)");
  const at::Tensor q = random_leaf({2, 4, 150, 32}, at::kFloat);
  const at::Tensor k = random_leaf({2, 2, 150, 32}, at::kFloat);
  const at::Tensor v = random_leaf({2, 2, 150, 32}, at::kFloat);
  const at::Tensor weights = at::randn({2, 4, 150, 32});
  const auto gradients = grad({weighted_sum(attention(q, k, v, pattern), weights)}, {q, k, v});
  const at::Tensor q64 = q.detach().to(at::kDouble).requires_grad_();
  const at::Tensor k64 = k.detach().to(at::kDouble).requires_grad_();
  const at::Tensor v64 = v.detach().to(at::kDouble).requires_grad_();
  const auto [out, lse] = dense_attention(q64, k64, v64, pattern, 1 / std::sqrt(32.0));
  const auto expected = grad({weighted_sum(out, weights)}, {q64, k64, v64});
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_LT((gradients[i] - expected[i]).abs().max().item<double>(), 2e-5) << "input " << i;
  }
}

TEST(AttentionGradient, OnlyOfWhatAsksForIt) {
  const at::Tensor q = at::randn({1, 1, 8, 8}), k = at::randn({1, 1, 8, 8});
  const at::Tensor v = random_leaf({1, 1, 8, 8}, at::kFloat);
  attention(q, k, v, dense()).sum().backward();
  EXPECT_FALSE(q.grad().defined());
  EXPECT_TRUE(v.grad().defined());
  EXPECT_FALSE(attention(q, k, q, dense()).requires_grad());
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no lace::Error";
}

TEST(AttentionGradient, LseHasNone) {
  const at::Tensor q = random_leaf({1, 1, 8, 8}, at::kFloat);
  const auto [out, lse] = attention_with_lse(q, q, q, dense());
  const at::Tensor loss = out.sum() + lse.sum();
  EXPECT_EQ(error_of([&] { loss.backward(); }),
            "[attention] lse is not differentiable: use lse.detach() in the loss");
  const auto [out2, lse2] = attention_with_lse(q, q, q, dense());
  (out2.sum() + lse2.detach().sum()).backward();
  EXPECT_TRUE(q.grad().defined());
}

TEST(AttentionGradient, OfAGradientIsAnError) {
  const at::Tensor q = random_leaf({1, 1, 8, 8}, at::kFloat);
  const at::Tensor out = attention(q, q, q, dense());
  const auto first = grad({out.sum()}, {q}, {}, /*retain_graph=*/true, /*create_graph=*/true);
  EXPECT_EQ(error_of([&] { grad({first[0].sum()}, {q}); }),
            "[attention] gradients of gradients are not computed: attention can be "
            "differentiated once");
}

TEST(AttentionGradient, NeedsItsInputsAndOutputUnchanged) {
  for (size_t changed = 0; changed < 5; ++changed) {
    std::vector<at::Tensor> t;
    for (int i = 0; i < 3; ++i) t.push_back(test::random_leaf({1, 2, 20, 8}, at::kFloat));
    const auto [out, lse] = attention_with_lse(t[0], t[1], t[2], Pattern::parse("local(4)"));
    t.push_back(out);
    t.push_back(lse);
    const at::Tensor loss = (out * 2).sum();
    {
      const at::NoGradGuard no_grad;
      t[changed].mul_(2);
    }
    EXPECT_THROW(loss.backward(), c10::Error) << changed;
  }
}

}  // namespace
}  // namespace lace
