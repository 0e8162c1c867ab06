// Gradients of lace::attention, and what it refuses to differentiate.

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "lace/attention.h"
#include "lace/sequences.h"

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

// Sums of `tensor` that are finite, weighted.
at::Tensor finite_sum(const at::Tensor& tensor, const at::Tensor& weights) {
  return weighted_sum(at::where(at::isfinite(tensor), tensor, at::zeros_like(tensor)), weights);
}

// Gradients of q, k, v and sinks where the loss depends on out, on lse, or on both.
TEST(AttentionGradient, EqualsFiniteDifferences) {
  at::manual_seed(5);
  for (const char* text :
       {"dense", "local(3) | strided(4)", "summary(4, 1)", "bidirectional(block(4) | sinks(1))"}) {
    const Pattern pattern = Pattern::parse(text);
    const at::Tensor q = random_leaf({1, 2, 9, 4}, at::kDouble);
    const at::Tensor k = random_leaf({1, 1, 11, 4}, at::kDouble);
    const at::Tensor v = random_leaf({1, 1, 11, 3}, at::kDouble);
    const at::Tensor sinks = random_leaf({2}, at::kDouble);
    const at::Tensor of_out = at::randn({1, 2, 9, 3}, at::kDouble);
    const at::Tensor of_lse = at::randn({1, 2, 9}, at::kDouble);
    for (const bool sunk : {false, true}) {
      for (const int parts : {1, 2, 3}) {  // bits: out, lse
        auto loss = [&] {
          AttentionOptions options{.scale = kScale};
          if (sunk) options.sinks = sinks;
          const auto [out, lse] = attention_with_lse(q, k, v, pattern, options);
          at::Tensor sum = at::zeros({}, at::kDouble);
          if ((parts & 1) != 0) sum = sum + weighted_sum(out, of_out);
          if ((parts & 2) != 0) sum = sum + finite_sum(lse, of_lse);
          return sum;
        };
        std::vector<at::Tensor> leaves{q, k, v};
        if (sunk) leaves.push_back(sinks);
        const auto gradients = grad({loss()}, leaves);
        for (size_t i = 0; i < leaves.size(); ++i) {
          const at::Tensor difference = gradients[i] - finite_differences(leaves[i], loss);
          EXPECT_LT(difference.abs().max().item<double>(), 1e-8)
              << text << ", input " << i << ", sinks " << sunk << ", loss of " << parts;
        }
      }
    }
  }
}

// A softcap with everything else: sinks, a loss of lse, padding whose rows hold NaN.
TEST(AttentionGradient, OfASoftcapEqualsFiniteDifferences) {
  at::manual_seed(12);
  for (const char* text :
       {"dense", "local(3) | strided(4)", "bidirectional(block(4) | sinks(1))"}) {
    const Pattern pattern = Pattern::parse(text);
    const at::Tensor q = random_leaf({2, 2, 9, 4}, at::kDouble);
    const at::Tensor k = random_leaf({2, 1, 9, 4}, at::kDouble);
    const at::Tensor v = random_leaf({2, 1, 9, 3}, at::kDouble);
    const at::Tensor sinks = random_leaf({2}, at::kDouble);
    const at::Tensor of_out = at::randn({2, 2, 9, 3}, at::kDouble);
    const at::Tensor of_lse = at::randn({2, 2, 9}, at::kDouble);
    AttentionOptions options{.scale = 1.3, .sinks = sinks, .softcap = 0.9};
    options.sequences = padded_sequences(2, 9, 9, {.k_lens = at::tensor({6, 9})});
    const auto loss = [&] {
      const auto [out, lse] = attention_with_lse(q, k, v, pattern, options);
      return weighted_sum(out, of_out) + finite_sum(lse, of_lse);
    };
    const std::vector<at::Tensor> leaves{q, k, v, sinks};
    const auto gradients = grad({loss()}, leaves);
    for (size_t i = 0; i < leaves.size(); ++i) {
      const at::Tensor difference = gradients[i] - finite_differences(leaves[i], loss);
      EXPECT_LT(difference.abs().max().item<double>(), 1e-8) << text << ", input " << i;
    }
    options.softcap = std::nullopt;
    EXPECT_GT((grad({loss()}, {q})[0] - gradients[0]).abs().max().item<double>(), 1e-3);
  }
}

// Two calls over halves of the keys, joined by their lse, are one call, gradients included.
TEST(AttentionGradient, FlowsThroughAJoinOfCalls) {
  at::manual_seed(7);
  for (const auto type : {at::kDouble, at::kFloat}) {
    const at::Tensor q = random_leaf({2, 2, 50, 16}, type);
    const at::Tensor k = random_leaf({2, 2, 100, 16}, type);
    const at::Tensor v = random_leaf({2, 2, 100, 16}, type);
    const at::Tensor weights = at::randn({2, 2, 50, 16}).to(type);
    // All queries see the first 50 keys; of the others those before them.
    const auto [out1, lse1] = attention_with_lse(q, k.slice(2, 0, 50), v.slice(2, 0, 50),
                                                 Pattern::parse("bidirectional(dense)"));
    const auto [out2, lse2] =
        attention_with_lse(q, k.slice(2, 50), v.slice(2, 50), Pattern::parse("dense"));
    const at::Tensor lse = at::logaddexp(lse1, lse2);
    const at::Tensor joined =
        out1 * (lse1 - lse).exp().unsqueeze(3) + out2 * (lse2 - lse).exp().unsqueeze(3);
    const auto got = grad({weighted_sum(joined, weights)}, {q, k, v});
    const at::Tensor out = attention(q, k, v, dense());
    const auto expected = grad({weighted_sum(out, weights)}, {q, k, v});
    const double tolerance = type == at::kDouble ? 1e-8 : 2e-5;  // at::exp (dense_attention.h)
    EXPECT_LT((joined - out).abs().max().item<double>(), tolerance);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_LT((got[i] - expected[i]).abs().max().item<double>(), tolerance) << "input " << i;
    }
  }
}

// The CPU kernels' gradients of a loss of out and lse against those of one more key per row.
TEST(AttentionGradient, OfSinksEqualsThatOfTheFormula) {
  at::manual_seed(8);
  const Pattern pattern = Pattern::parse("summary(8, 2) | strided(16)");
  const at::Tensor q = random_leaf({2, 4, 150, 32}, at::kFloat);
  const at::Tensor k = random_leaf({2, 2, 150, 32}, at::kFloat);
  const at::Tensor v = random_leaf({2, 2, 150, 32}, at::kFloat);
  const at::Tensor of_out = at::randn({2, 4, 150, 32}), of_lse = at::randn({2, 4, 150});
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor sinks = random_leaf({4}, type);
    const auto [out, lse] = attention_with_lse(q, k, v, pattern, {.sinks = sinks});
    const auto got =
        grad({weighted_sum(out, of_out) + weighted_sum(lse, of_lse)}, {q, k, v, sinks});
    std::vector<at::Tensor> leaves;
    for (const at::Tensor& leaf : {q, k, v, sinks}) {
      leaves.push_back(leaf.detach().to(at::kDouble).requires_grad_());
    }
    const auto [plain, plain_lse] =
        dense_attention(leaves[0], leaves[1], leaves[2], pattern, 1 / std::sqrt(32.0));
    const at::Tensor joined = at::logaddexp(plain_lse, leaves[3].unsqueeze(1));
    const at::Tensor sunk = plain * (plain_lse - joined).exp().unsqueeze(3);
    EXPECT_LT((out - sunk).abs().max().item<double>(), 1e-5);
    EXPECT_LT((lse - joined).abs().max().item<double>(), 1e-5);
    const auto expected = grad({weighted_sum(sunk, of_out) + weighted_sum(joined, of_lse)}, leaves);
    for (size_t i = 0; i < leaves.size(); ++i) {
      EXPECT_EQ(got[i].scalar_type(), i == 3 ? type : at::kFloat);
      const double tolerance = i < 3 ? 2e-5 : type == at::kFloat ? 1e-4 : 0.3;
      EXPECT_LT((got[i] - expected[i]).abs().max().item<double>(), tolerance) << "input " << i;
    }
  }
}

// Rows without keys: out 0, lse the sink, whose gradient there is that of lse.
TEST(AttentionGradient, OfSinksInRowsWithoutKeys) {
  const at::Tensor q = random_leaf({1, 2, 6, 8}, at::kFloat);  // none sees a key
  const at::Tensor sinks = at::tensor({0.5, -INFINITY}, at::kFloat).requires_grad_();
  const auto [out, lse] = attention_with_lse(q, q, q, summary(8, 2), {.sinks = sinks});
  EXPECT_EQ(out.abs().max().item<float>(), 0);
  EXPECT_TRUE(at::equal(lse.select(1, 0), at::full({1, 6}, 0.5f)));
  EXPECT_TRUE(at::isneginf(lse.select(1, 1)).all().item<bool>());
  const auto got = grad({out.sum() + 3 * lse.sum()}, {q, sinks});
  EXPECT_EQ(got[0].abs().max().item<float>(), 0);
  EXPECT_TRUE(at::equal(got[1], at::tensor({18.0f, 0.0f})));
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

TEST(AttentionGradient, OfLseCostsNothingWhereItIsDetached) {
  const at::Tensor q = random_leaf({1, 1, 8, 8}, at::kFloat);
  const auto [out, lse] = attention_with_lse(q, q, q, dense());
  (out.sum() + lse.detach().sum()).backward();
  EXPECT_TRUE(at::equal(q.grad(), grad({attention(q, q, q, dense()).sum()}, {q})[0]));
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
