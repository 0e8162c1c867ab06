// The fused loops against libtorch's own operations in float64, and the dropout masks.

#include "model/layers.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "model/dropout_keys.h"
#include "ops/torch_context.h"
#include "small_model.h"

namespace lace::model {
namespace {

constexpr int64_t kRows = 100, kColumns = 48;

at::Tensor random(std::vector<int64_t> shape, uint64_t seed, double std = 1) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::normal(0, std, shape, generator, at::TensorOptions().dtype(at::kFloat));
}

// Each case runs in these types; the same call in float64 takes libtorch's operations.
struct Types {
  at::ScalarType compute, residual;
};
class Layers : public testing::TestWithParam<Types> {
 protected:
  at::ScalarType compute() const { return GetParam().compute; }
  at::ScalarType residual_type() const { return GetParam().residual; }
  at::Tensor values(std::vector<int64_t> shape, uint64_t seed) const {
    return random(std::move(shape), seed).to(compute());
  }
  void expect_close(const at::Tensor& got, const at::Tensor& want) const {
    EXPECT_LT(relative_error(got, want), tolerance(got.scalar_type()));
  }
  // Of what is made of the residual stream as it is rounded.
  void expect_close_behind(const at::Tensor& got, const at::Tensor& want) const {
    EXPECT_LT(relative_error(got, want),
              std::max(tolerance(got.scalar_type()), tolerance(residual_type())));
  }
  static double tolerance(at::ScalarType type) {
    return type == at::kBFloat16 ? 4e-3 : type == at::kHalf ? 5e-4 : 2e-6;
  }

  const at::Tensor x = (random({kRows, kColumns}, 1, 3) + 0.5).to(residual_type());
  const at::Tensor weight = random({kColumns}, 2) + 1, bias = random({kColumns}, 3);
  const std::vector<uint64_t> keys = dropout_keys(5, 6, 7, 9);
  const Dropout dropout = make_dropout(0.4, &keys[17]);
};

// A gradient that is not added to anything.
Into fresh(int64_t columns, at::ScalarType wide) { return {at::full({columns}, 9, wide)}; }

TEST_P(Layers, NormAndResidual) {
  const at::Tensor branch = values({kRows, kColumns}, 4);
  const auto [sum, norm] = residual_norm(x, branch, dropout, weight, bias, 1e-5);
  const auto [want_sum, want] = residual_norm(x.to(at::kDouble), branch.to(at::kDouble), dropout,
                                              weight.to(at::kDouble), bias.to(at::kDouble), 1e-5);
  EXPECT_EQ(sum.scalar_type(), residual_type());
  EXPECT_EQ(norm.mean.scalar_type(), at::kFloat);
  expect_close(sum, want_sum);
  expect_close_behind(norm.y, want.y);
  expect_close_behind(norm.rstd, want.rstd);
  expect_close_behind(norm.mean, want.mean);
  EXPECT_TRUE(at::equal(residual(x, branch, dropout), sum));
  EXPECT_TRUE(at::equal(residual(x.to(at::kFloat), branch, dropout).to(residual_type()), sum));
  EXPECT_EQ(layer_norm(sum, weight, bias, 1e-5, compute()).y.scalar_type(), compute());
  EXPECT_TRUE(at::equal(layer_norm(sum, weight, bias, 1e-5, compute()).y, norm.y));
}

struct AllNormGrads {
  at::Tensor x, branch, weight, bias, sum;
};

// layer_norm_grad of everything, with what was in the sums before counted or not.
AllNormGrads norm_grads(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight,
                        const at::Tensor& bias, const at::Tensor& grad, const Dropout& dropout,
                        bool add) {
  const at::ScalarType wide = weight.scalar_type();
  const Norm norm = layer_norm(x, weight, bias, 1e-5, dy.scalar_type());
  Into weight_grad = fresh(kColumns, wide), bias_grad = fresh(kColumns, wide);
  Branch branch{dropout, fresh(kColumns, wide)};
  weight_grad.add = bias_grad.add = branch.sum.add = add;
  const NormGrads grads =
      layer_norm_grad(dy, x, norm, weight, grad.clone(), &branch, weight_grad, bias_grad);
  return {grads.x, grads.branch, weight_grad.tensor, bias_grad.tensor, branch.sum.tensor};
}

TEST_P(Layers, NormGradient) {
  const at::Tensor dy = values({kRows, kColumns}, 5);
  const at::Tensor grad = random({kRows, kColumns}, 6).to(residual_type());
  for (const bool add : {false, true}) {
    const AllNormGrads got = norm_grads(dy, x, weight, bias, grad, dropout, add);
    const AllNormGrads want =
        norm_grads(dy.to(at::kDouble), x.to(at::kDouble), weight.to(at::kDouble),
                   bias.to(at::kDouble), grad.to(at::kDouble), dropout, add);
    EXPECT_EQ(got.x.scalar_type(), residual_type());
    EXPECT_EQ(got.branch.scalar_type(), compute());
    expect_close(got.x, want.x);
    expect_close_behind(got.branch, want.branch);
    expect_close(got.weight, want.weight);
    expect_close(got.bias, want.bias);
    expect_close_behind(got.sum, want.sum);
    // The branch's is made of that of the sum as it is rounded.
    const AllNormGrads undropped = norm_grads(dy, x, weight, bias, grad, {}, add);
    EXPECT_TRUE(at::equal(undropped.branch, undropped.x.to(compute())));
  }
}

TEST_P(Layers, QuickGelu) {
  const at::Tensor in = values({kRows, kColumns}, 8) * 4, dy = values({kRows, kColumns}, 9);
  expect_close(quick_gelu(in), quick_gelu(in.to(at::kDouble)));
  for (const bool add : {false, true}) {
    Into sum = fresh(kColumns, at::kFloat), want_sum = fresh(kColumns, at::kDouble);
    sum.add = want_sum.add = add;
    expect_close(quick_gelu_grad(dy.clone(), in, sum),
                 quick_gelu_grad(dy.to(at::kDouble), in.to(at::kDouble), want_sum));
    expect_close(sum.tensor, want_sum.tensor);
  }
}

TEST_P(Layers, QuickGeluOfLargeValues) {
  const at::Tensor in =
      at::tensor({-1e4, -200.0, -60.0, 0.0, 60.0, 200.0, 1e4, compute() == at::kHalf ? 6e4 : 5e37})
          .to(compute())
          .repeat({1, 2});
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
  const at::Tensor factor = at::full({}, 3, at::kDouble);
  expect_close(cross_entropy_grad(logits.clone(), targets, got.lse, 0.5, factor),
               cross_entropy_grad(logits.to(at::kDouble), targets, want.lse, 1.5, {}));
}

// Columns that are no multiple of a vector's take plain loops.
TEST_P(Layers, OddColumnsAgree) {
  const at::Tensor padded = values({kRows, kColumns}, 12),
                   odd = padded.narrow(1, 0, 41).contiguous();
  EXPECT_LT(relative_error(quick_gelu(odd), quick_gelu(padded).narrow(1, 0, 41)), 4e-3);
  const at::Tensor h = random({kRows, 41}, 13).to(residual_type());
  const at::Tensor w = random({41}, 14), b = random({41}, 15);
  const auto [sum, norm] = residual_norm(h, odd, dropout, w, b, 1e-5);
  const auto [want_sum, want] = residual_norm(h.to(at::kDouble), odd.to(at::kDouble), dropout,
                                              w.to(at::kDouble), b.to(at::kDouble), 1e-5);
  expect_close(sum, want_sum);
  expect_close_behind(norm.y, want.y);
  const Into weight_grad = fresh(41, at::kFloat), bias_grad = fresh(41, at::kFloat);
  const Into want_weight = fresh(41, at::kDouble), want_bias = fresh(41, at::kDouble);
  const NormGrads got =
      layer_norm_grad(odd, h, norm, w, h.clone(), nullptr, weight_grad, bias_grad);
  const NormGrads exact =
      layer_norm_grad(odd.to(at::kDouble), h.to(at::kDouble),
                      {{}, norm.mean.to(at::kDouble), norm.rstd.to(at::kDouble)}, w.to(at::kDouble),
                      h.to(at::kDouble), nullptr, want_weight, want_bias);
  expect_close(got.x, exact.x);
  EXPECT_LT(relative_error(weight_grad.tensor, want_weight.tensor), 1e-5);
}

// Vectors and plain loops (columns that are no multiple of 16), against libtorch's own lookups.
TEST_P(Layers, EmbeddingsInTheResidualsType) {
  for (const int64_t columns : {48, 41}) {
    const int64_t batch = 3, n = 20;
    const at::Tensor tokens = random_tokens(batch, n, 30).to(at::kLong);
    const at::Tensor indices = random_tokens(2, n, 7).to(at::kLong);
    const std::vector<at::Tensor> tables = {random({30, columns}, 1), random({columns}, 2),
                                            random({7, columns}, 3), random({7, columns}, 4)};
    std::vector<at::Tensor> leaves;
    for (const at::Tensor& table : tables) leaves.push_back(table.to(at::kDouble).requires_grad_());
    const at::Tensor rows = at::embedding(leaves[0], tokens) +
                            at::embedding(leaves[2], indices[0]) +
                            at::embedding(leaves[3], indices[1]);
    const at::Tensor want =
        at::cat({leaves[1].expand({batch, 1, columns}), rows.narrow(1, 0, n - 1)}, 1)
            .view({batch * n, columns});
    const at::Tensor got = embed(tokens, indices, tables, residual_type());
    EXPECT_EQ(got.scalar_type(), residual_type());
    expect_close(got, want.detach());

    const at::Tensor grad = random({batch * n, columns}, 5).to(residual_type());
    want.backward(grad.to(at::kDouble));
    std::vector<at::Tensor> grads;
    for (const at::Tensor& table : tables) grads.push_back(at::full_like(table, 9));
    embed_grad(grad, tokens, indices, grads, false);
    for (size_t i = 0; i < grads.size(); ++i)
      EXPECT_LT(relative_error(grads[i], leaves[i].grad()), 2e-6) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, Layers,
                         testing::Values(Types{at::kFloat, at::kFloat},
                                         Types{at::kBFloat16, at::kFloat},
                                         Types{at::kHalf, at::kFloat},
                                         Types{at::kBFloat16, at::kBFloat16},
                                         Types{at::kHalf, at::kHalf}),
                         [](const auto& info) {
                           return std::string(c10::toString(info.param.compute)) + "_residual_" +
                                  c10::toString(info.param.residual);
                         });

TEST(Layers64, GradientsAreThoseOfAutograd) {
  // The float64 side of the other cases, against libtorch's own derivatives.
  const at::Tensor x = random({kRows, kColumns}, 1, 3) + 0.5;
  const at::Tensor weight = random({kColumns}, 2) + 1, bias = random({kColumns}, 3);
  const auto leaf = [](const at::Tensor& t) { return t.to(at::kDouble).requires_grad_(); };
  const at::Tensor in = leaf(x), w = leaf(weight), b = leaf(bias);
  const at::Tensor dy = random({kRows, kColumns}, 11).to(at::kDouble);
  at::layer_norm(in, {kColumns}, w, b, 1e-5).backward(dy);
  const Norm norm = layer_norm(in.detach(), w.detach(), b.detach(), 1e-5, at::kDouble);
  const Into weight_grad = fresh(kColumns, at::kDouble), bias_grad = fresh(kColumns, at::kDouble);
  const NormGrads got =
      layer_norm_grad(dy, in.detach(), norm, w.detach(), {}, nullptr, weight_grad, bias_grad);
  EXPECT_LT(relative_error(got.x, in.grad()), 1e-12);
  EXPECT_LT(relative_error(weight_grad.tensor, w.grad()), 1e-12);
  EXPECT_LT(relative_error(bias_grad.tensor, b.grad()), 1e-12);
  const at::Tensor logits = leaf(x);
  const at::Tensor targets = random_tokens(kRows, 1, kColumns).view(-1);
  at::cross_entropy_loss(logits, targets).backward();
  const CrossEntropy ce = cross_entropy(logits.detach(), targets);
  EXPECT_LT(relative_error(ce.nats.mean(), at::cross_entropy_loss(logits, targets).detach()),
            1e-12);
  EXPECT_LT(
      relative_error(cross_entropy_grad(logits.detach().clone(), targets, ce.lse, 1.0 / kRows, {}),
                     logits.grad()),
      1e-12);
  const at::Tensor v = leaf(x);
  (v * at::sigmoid(v * 1.702)).backward(dy);
  const Into sum = fresh(kColumns, at::kDouble);
  EXPECT_LT(relative_error(quick_gelu_grad(dy.clone(), v.detach(), sum), v.grad()), 1e-12);
  EXPECT_LT(relative_error(sum.tensor, v.grad().sum(0)), 1e-12);
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
  const Into dw{at::empty({shape.out, shape.in}, wide_type(type))};
  linear_grad_weight(dy, x, dw);
  return {linear_forward(x, w, b), linear_grad_input(dy, w), dw.tensor};
}

TEST(Linear, WeightGradientsAddUp) {
  for (const LinearShape& shape : kLinearShapes) {
    const at::Tensor x = random({shape.rows, shape.in}, 1), dy = random({shape.rows, shape.out}, 4);
    const Into once{at::zeros({shape.out, shape.in})};
    linear_grad_weight(dy, x, once);
    const Into twice{once.tensor.clone(), true}, bias{at::ones({shape.out}), true};
    linear_grad_weight(dy, x, twice);
    column_sum(dy, bias);
    EXPECT_TRUE(at::equal(twice.tensor, once.tensor * 2));
    EXPECT_LT(relative_error(bias.tensor, dy.to(at::kDouble).sum(0) + 1), 1e-6);
  }
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
    const uint64_t key = dropout_keys(1, 2, 3, 5)[8];
    const at::Tensor mask = mask_of(make_dropout(p, &key), 2000, 512);
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
  const auto mask_with = [](uint64_t seed, int64_t step, int64_t micro_batch, int64_t layer,
                            DropoutBranch branch) {
    const auto keys = dropout_keys(seed, step, micro_batch, layer + 1);
    const uint64_t* key = &keys[static_cast<size_t>(layer * kDropoutBranches + branch)];
    return mask_of(make_dropout(0.5, key), 20, 64);
  };
  const at::Tensor mask = mask_with(1, 2, 3, 4, kAttentionBranch);
  EXPECT_TRUE(at::equal(mask, mask_with(1, 2, 3, 4, kAttentionBranch)));
  for (const at::Tensor& other :
       {mask_with(9, 2, 3, 4, kAttentionBranch), mask_with(1, 9, 3, 4, kAttentionBranch),
        mask_with(1, 2, 9, 4, kAttentionBranch), mask_with(1, 2, 3, 9, kAttentionBranch),
        mask_with(1, 2, 3, 4, kFeedForwardBranch)}) {
    const double equal = (mask == other).to(at::kDouble).mean().item<double>();
    EXPECT_NEAR(equal, 0.5, 0.1);
  }
}

TEST(Dropout, NoneIsTheIdentity) {
  EXPECT_TRUE(at::equal(mask_of(make_dropout(0, nullptr), 5, 32), at::ones({5, 32})));
}

}  // namespace
}  // namespace lace::model
