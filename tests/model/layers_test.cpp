// The fused loops against libtorch's own operations in float64, and the dropout masks.

#include "model/layers.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "ops/torch_context.h"
#include "small_model.h"

namespace lace::model {
namespace {

constexpr int64_t kRows = 100, kColumns = 48;

at::Tensor random(std::vector<int64_t> shape, uint64_t seed, double std = 1) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::normal(0, std, shape, generator, at::TensorOptions().dtype(at::kFloat));
}

// Each case runs in float32 and bfloat16; the same call in float64 takes libtorch's operations.
class Layers : public testing::TestWithParam<at::ScalarType> {
 protected:
  at::ScalarType compute() const { return GetParam(); }
  at::Tensor values(std::vector<int64_t> shape, uint64_t seed) const {
    return random(std::move(shape), seed).to(compute());
  }
  void expect_close(const at::Tensor& got, const at::Tensor& want) const {
    const double tolerance = got.scalar_type() == at::kBFloat16 ? 4e-3 : 2e-6;
    EXPECT_LT(relative_error(got, want), tolerance);
  }

  const at::Tensor x = random({kRows, kColumns}, 1, 3) + 0.5;
  const at::Tensor weight = random({kColumns}, 2) + 1, bias = random({kColumns}, 3);
  const Dropout dropout = make_dropout(0.4, 5, 6, 7, 8, 1);
};

TEST_P(Layers, NormAndResidual) {
  const at::Tensor branch = values({kRows, kColumns}, 4);
  const auto [sum, norm] = residual_norm(x, branch, dropout, weight, bias, 1e-5);
  const auto [want_sum, want] = residual_norm(x.to(at::kDouble), branch.to(at::kDouble), dropout,
                                              weight.to(at::kDouble), bias.to(at::kDouble), 1e-5);
  expect_close(sum, want_sum);
  expect_close(norm.y, want.y);
  expect_close(norm.rstd, want.rstd);
  expect_close(norm.mean, want.mean);
  expect_close(residual(x, branch, dropout), want_sum);
  EXPECT_EQ(layer_norm(sum, weight, bias, 1e-5, compute()).y.scalar_type(), compute());
  EXPECT_TRUE(at::equal(layer_norm(sum, weight, bias, 1e-5, compute()).y, norm.y));
}

TEST_P(Layers, NormGradient) {
  const at::Tensor dy = values({kRows, kColumns}, 5), grad = random({kRows, kColumns}, 6);
  const Norm norm = layer_norm(x, weight, bias, 1e-5, compute());
  const at::Tensor wide = x.to(at::kDouble);
  const Norm wide_norm =
      layer_norm(wide, weight.to(at::kDouble), bias.to(at::kDouble), 1e-5, at::kDouble);
  const NormGrads got = layer_norm_grad(dy, x, norm, weight, grad);
  const NormGrads want = layer_norm_grad(dy.to(at::kDouble), wide, wide_norm,
                                         weight.to(at::kDouble), grad.to(at::kDouble));
  expect_close(got.x, want.x);
  expect_close(got.weight, want.weight);
  expect_close(got.bias, want.bias);
}

TEST_P(Layers, BranchGradient) {
  const at::Tensor grad = random({kRows, kColumns}, 7);
  const GradAndSum got = branch_grad(grad, dropout, compute());
  const GradAndSum want = branch_grad(grad.to(at::kDouble), dropout, at::kDouble);
  expect_close(got.grad, want.grad);
  expect_close(got.sum, want.sum);
  EXPECT_EQ(got.grad.scalar_type(), compute());
}

TEST_P(Layers, QuickGelu) {
  const at::Tensor in = values({kRows, kColumns}, 8) * 4, dy = values({kRows, kColumns}, 9);
  expect_close(quick_gelu(in), quick_gelu(in.to(at::kDouble)));
  const GradAndSum got = quick_gelu_grad(dy, in);
  const GradAndSum want = quick_gelu_grad(dy.to(at::kDouble), in.to(at::kDouble));
  expect_close(got.grad, want.grad);
  expect_close(got.sum, want.sum);
  expect_close(row_sum(in), row_sum(in.to(at::kDouble)));
}

TEST_P(Layers, QuickGeluOfLargeValues) {
  const at::Tensor in =
      at::tensor({-1e4, -200.0, -60.0, 0.0, 60.0, 200.0, 1e4, 5e37}).to(compute()).repeat({1, 2});
  const at::Tensor y = quick_gelu(in).to(at::kFloat);
  EXPECT_TRUE(at::isfinite(y).all().item<bool>());
  EXPECT_TRUE(at::equal(y.slice(1, 3, 8), in.to(at::kFloat).slice(1, 3, 8)));
  EXPECT_LT(y.slice(1, 0, 3).abs().max().item<float>(), 1e-30);
}

TEST_P(Layers, CrossEntropy) {
  const at::Tensor logits = values({kRows, kColumns}, 10) * 5;
  const at::Tensor targets = random_tokens(kRows, 1, kColumns).view(-1);
  const CrossEntropy got = cross_entropy(logits, targets);
  const CrossEntropy want = cross_entropy(logits.to(at::kDouble), targets);
  EXPECT_LT(relative_error(got.nats, want.nats), 1e-6);
  EXPECT_LT(relative_error(got.lse, want.lse), 1e-6);
  expect_close(cross_entropy_grad(logits, targets, got.lse, 0.5),
               cross_entropy_grad(logits.to(at::kDouble), targets, want.lse, 0.5));
}

INSTANTIATE_TEST_SUITE_P(Types, Layers, testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& info) { return c10::toString(info.param); });

TEST(Layers64, GradientsAreThoseOfAutograd) {
  // The float64 side of the other cases, against libtorch's own derivatives.
  const at::Tensor x = random({kRows, kColumns}, 1, 3) + 0.5;
  const at::Tensor weight = random({kColumns}, 2) + 1, bias = random({kColumns}, 3);
  const auto leaf = [](const at::Tensor& t) { return t.to(at::kDouble).requires_grad_(); };
  const at::Tensor in = leaf(x), w = leaf(weight), b = leaf(bias);
  const at::Tensor dy = random({kRows, kColumns}, 11).to(at::kDouble);
  at::layer_norm(in, {kColumns}, w, b, 1e-5).backward(dy);
  const Norm norm = layer_norm(in.detach(), w.detach(), b.detach(), 1e-5, at::kDouble);
  const NormGrads got =
      layer_norm_grad(dy, in.detach(), norm, w.detach(), at::zeros_like(in.detach()));
  EXPECT_LT(relative_error(got.x, in.grad()), 1e-12);
  EXPECT_LT(relative_error(got.weight, w.grad()), 1e-12);
  EXPECT_LT(relative_error(got.bias, b.grad()), 1e-12);
  const at::Tensor v = leaf(x);
  (v * at::sigmoid(v * 1.702)).backward(dy);
  EXPECT_LT(relative_error(quick_gelu_grad(dy, v.detach()).grad, v.grad()), 1e-12);
}

at::Tensor mask_of(const Dropout& dropout, int64_t rows, int64_t columns) {
  return residual(at::zeros({rows, columns}), at::ones({rows, columns}), dropout);
}

// Which library computes float32 products depends on the processor: both are right on each.
TEST(Linear, OneDnnAgrees) {
  const at::Tensor x = random({50, 48}, 1), w = random({33, 48}, 2), b = random({33}, 3);
  const at::Tensor wide = at::mm(x.to(at::kDouble), w.to(at::kDouble).t());
  EXPECT_LT(relative_error(onednn_linear(x, w, {}), wide), 1e-6);
  EXPECT_LT(relative_error(onednn_linear(x, w, b), wide + b.to(at::kDouble)), 1e-6);
  EXPECT_LT(relative_error(linear_forward(x, w, b), wide + b.to(at::kDouble)), 1e-6);
}

struct LinearShape {
  int64_t rows, in, out;
};
constexpr LinearShape kLinearShapes[] = {
    {1, 16, 33}, {7, 600, 1500}, {300, 48, 40}, {2100, 96, 288}, {1030, 700, 900}};

// The three products at these shapes, of which some are cut into tasks by rows, some by columns,
// some along the sum.
std::array<at::Tensor, 3> products(const LinearShape& shape, at::ScalarType type) {
  const at::Tensor x = random({shape.rows, shape.in}, 1).to(type);
  const at::Tensor w = random({shape.out, shape.in}, 2).to(type);
  const at::Tensor b = random({shape.out}, 3).to(type);
  const at::Tensor dy = random({shape.rows, shape.out}, 4).to(type);
  return {linear_forward(x, w, b), linear_grad_input(dy, w), linear_grad_weight(dy, x)};
}

TEST(Linear, ProductsOfAllShapesAgree) {
  for (const auto type : {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble}) {
    for (const LinearShape& shape : kLinearShapes) {
      const at::Tensor x = random({shape.rows, shape.in}, 1).to(type).to(at::kDouble);
      const at::Tensor w = random({shape.out, shape.in}, 2).to(type).to(at::kDouble);
      const at::Tensor b = random({shape.out}, 3).to(type).to(at::kDouble);
      const at::Tensor dy = random({shape.rows, shape.out}, 4).to(type).to(at::kDouble);
      const double rounded = type == at::kBFloat16 ? 4e-3 : type == at::kHalf ? 5e-4 : 1e-6;
      const auto [y, dx, dw] = products(shape, type);
      EXPECT_LT(relative_error(y, at::addmm(b, x, w.t())), rounded);
      EXPECT_LT(relative_error(dx, at::mm(dy, w)), rounded);
      // Sums of 16-bit products are in float32, and stay there.
      EXPECT_LT(relative_error(dw, at::mm(dy.t(), x)), 1e-6) << type << " " << shape.rows;
      EXPECT_EQ(dw.scalar_type(), wide_type(type));
    }
  }
}

TEST(Linear, ThreadsDoNotChangeProducts) {
  const int threads = at::get_num_threads();
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const LinearShape& shape : kLinearShapes) {
      at::set_num_threads(1);
      const auto one = products(shape, type);
      for (const int count : {2, 3}) {
        at::set_num_threads(count);
        const ops::OwnThreads own;
        const auto more = products(shape, type);
        for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(at::equal(one[i], more[i])) << i;
      }
    }
  }
  at::set_num_threads(threads);
}

TEST(Dropout, DropsTheShareAskedFor) {
  for (const double p : {0.01, 0.25, 0.4}) {
    const at::Tensor mask = mask_of(make_dropout(p, 1, 2, 3, 4, 0), 2000, 512);
    const double dropped = (mask == 0).to(at::kDouble).mean().item<double>();
    const double deviation = std::sqrt(p * (1 - p) / (2000 * 512.0));
    EXPECT_NEAR(dropped, p, 5 * deviation);
    EXPECT_FLOAT_EQ(mask.max().item<float>(), static_cast<float>(1 / (1 - p)));
    // Rows, columns and neighbours are uncorrelated.
    const at::Tensor z = ((mask == 0).to(at::kDouble) - p) / std::sqrt(p * (1 - p));
    EXPECT_LT(z.mean(0).abs().max().item<double>() * std::sqrt(2000.0), 6);
    EXPECT_LT(z.mean(1).abs().max().item<double>() * std::sqrt(512.0), 6);
    EXPECT_LT(std::abs((z.slice(0, 1) * z.slice(0, 0, -1)).mean().item<double>()) * 1000, 6);
    EXPECT_LT(std::abs((z.slice(1, 1) * z.slice(1, 0, -1)).mean().item<double>()) * 1000, 6);
  }
}

TEST(Dropout, EveryPartOfTheKeyChangesTheMask) {
  const at::Tensor mask = mask_of(make_dropout(0.5, 1, 2, 3, 4, 0), 20, 64);
  EXPECT_TRUE(at::equal(mask, mask_of(make_dropout(0.5, 1, 2, 3, 4, 0), 20, 64)));
  for (const Dropout& other : {make_dropout(0.5, 9, 2, 3, 4, 0), make_dropout(0.5, 1, 9, 3, 4, 0),
                               make_dropout(0.5, 1, 2, 9, 4, 0), make_dropout(0.5, 1, 2, 3, 9, 0),
                               make_dropout(0.5, 1, 2, 3, 4, 1)}) {
    const double equal = (mask == mask_of(other, 20, 64)).to(at::kDouble).mean().item<double>();
    EXPECT_NEAR(equal, 0.5, 0.1);
  }
}

TEST(Dropout, NoneIsTheIdentity) {
  EXPECT_TRUE(at::equal(mask_of(make_dropout(0, 1, 2, 3, 4, 0), 5, 32), at::ones({5, 32})));
}

}  // namespace
}  // namespace lace::model
