// Rotary positions: the angles against the papers' formulas, the rotation against complex numbers,
// and the model against one written out with libtorch's operations in float64.

#include "model/rotary.h"

#include <cmath>
#include <numbers>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "model/layers.h"
#include "small_model.h"

namespace lace::model {
namespace {

at::Tensor random(std::vector<int64_t> shape, uint64_t seed) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::normal(0, 1, shape, generator, at::TensorOptions().dtype(at::kDouble));
}

ModelConfig rotary_config() {
  ModelConfig config = small_config();
  config.positions = PositionKind::kRotary;
  return config;
}

// ---- angles -------------------------------------------------------------------------------------

TEST(RotaryAngles, ArePowersOfTheBase) {
  ModelConfig config = rotary_config();  // head_dim 16
  config.rotary_base = 256;
  const RotaryAngles angles = rotary_angles(config);
  ASSERT_EQ(angles.frequencies.size(), 8u);
  const std::vector<double> want = {1,         0.5,        0.25,       0.125,
                                    1.0 / 16., 1.0 / 32.0, 1.0 / 64.0, 1.0 / 128};
  for (size_t d = 0; d < 8; ++d) EXPECT_NEAR(angles.frequencies[d], want[d], 1e-15);
  EXPECT_EQ(angles.factor, 1);
  config.rotary_scaling = RotaryScaling::kLinear;
  config.rotary_factor = 8;
  const RotaryAngles scaled = rotary_angles(config);
  for (size_t d = 0; d < 8; ++d) EXPECT_NEAR(scaled.frequencies[d], want[d] / 8, 1e-15);
  EXPECT_EQ(scaled.factor, 1);
}

// arXiv 2309.00071, equations 17 to 20: with λ_d = 2π / θ_d and r(d) = L / λ_d,
// h(θ_d) = (1 − γ(r)) θ_d / s + γ(r) θ_d, γ = 0 for r < α, 1 for r > β, else (r − α) / (β − α),
// and √(1 / t) = 0.1 ln s + 1 (equation 22). Llama 2: L = 4096, head_dim 128, α = 1, β = 32.
TEST(RotaryAngles, YarnIsThePapers) {
  ModelConfig config = rotary_config();
  config.heads = 2;
  config.qk_dim = 256;
  config.rotary_scaling = RotaryScaling::kYarn;
  config.rotary_factor = 16;
  config.rotary_original_length = 4096;
  const RotaryAngles angles = rotary_angles(config);
  ASSERT_EQ(angles.frequencies.size(), 64u);
  int kept = 0, divided = 0;
  for (int d = 0; d < 64; ++d) {
    const double wavelength = 2 * std::numbers::pi * std::pow(10000, 2.0 * d / 128);
    const double theta = 2 * std::numbers::pi / wavelength, r = 4096 / wavelength;
    const double gamma = r < 1 ? 0 : r > 32 ? 1 : (r - 1) / (32 - 1);
    const double want = (1 - gamma) * theta / 16 + gamma * theta;
    EXPECT_NEAR(angles.frequencies[static_cast<size_t>(d)] / want, 1, 1e-14) << d;
    kept += gamma == 1, divided += gamma == 0;
  }
  EXPECT_EQ(kept, 21);     // 4096 / (2π · 10000^(d / 64)) > 32 for d < 20.95
  EXPECT_EQ(divided, 18);  // … < 1 for d > 45.04
  EXPECT_NEAR(angles.factor, 1.2772588722239782, 1e-15);  // 0.1 ln 16 + 1

  // Without an original length it is seq_len / factor.
  config.seq_len = 65536;
  config.rotary_original_length = 0;
  EXPECT_EQ(config.rotary_original_length_or_default(), 4096);
  EXPECT_EQ(rotary_angles(config).frequencies, angles.frequencies);
}

TEST(RotaryAngles, TablesAreRoundedOnce) {
  ModelConfig config = small_rotary_config();
  config.seq_len = 100'000;  // in float32 the angle itself would be off by 0.004
  const RotaryAngles angles = rotary_angles(config);
  const Rotary exact = make_rotary(config, at::kDouble), rounded = make_rotary(config, at::kFloat);
  EXPECT_EQ(rounded.cos.sizes(), at::IntArrayRef({100'000, 8}));
  for (const int64_t i : {0, 1, 99'999}) {
    for (int64_t d = 0; d < 8; ++d) {
      const double angle = static_cast<double>(i) * angles.frequencies[static_cast<size_t>(d)];
      EXPECT_NEAR(exact.cos[i][d].item<double>(), angles.factor * std::cos(angle), 1e-12);
      EXPECT_NEAR(exact.sin[i][d].item<double>(), angles.factor * std::sin(angle), 1e-12);
    }
  }
  EXPECT_TRUE(at::equal(rounded.cos, exact.cos.to(at::kFloat)));
  EXPECT_TRUE(at::equal(rounded.sin, exact.sin.to(at::kFloat)));
  EXPECT_FALSE(make_rotary(small_config(), at::kFloat).cos.defined());
}

// ---- the rotation -------------------------------------------------------------------------------

// Each head's pair (d, d + head_dim / 2) as a complex number times factor · e^(± i angle), in
// float64; x [rows, heads, head_dim].
at::Tensor turned(const at::Tensor& x, const RotaryAngles& angles, int64_t n, int64_t first,
                  bool inverse) {
  const at::Tensor halves = x.to(at::kDouble).chunk(2, 2)[0],
                   others = x.to(at::kDouble).chunk(2, 2)[1];
  const at::Tensor position =
      at::arange(x.size(0), at::TensorOptions().dtype(at::kDouble)).remainder(n) + first;
  const at::Tensor angle =
      at::outer(position, at::tensor(angles.frequencies, at::kDouble)) * (inverse ? -1.0 : 1.0);
  const at::Tensor turn = at::polar(at::full_like(angle, angles.factor), angle).unsqueeze(1);
  const at::Tensor result = at::complex(halves, others) * turn;
  return at::cat({at::real(result), at::imag(result)}, 2);
}

struct RotateCase {
  int64_t rows, n, first, heads, head_dim, others;  // `others`: columns behind the heads
};
constexpr RotateCase kRotateCases[] = {
    {1, 1, 0, 1, 8, 0},       {100, 25, 0, 3, 16, 16}, {7, 7, 40, 4, 24, 8},
    {90, 45, 11, 4, 32, 64},  {64, 64, 0, 6, 64, 128}, {33, 11, 5, 2, 128, 3},
    {48, 16, 0, 2, 256, 512}, {20, 1, 63, 5, 40, 0},
};

class Rotate : public testing::TestWithParam<at::ScalarType> {};

TEST_P(Rotate, MultipliesComplexNumbers) {
  // Of one rounding of the sum of two products, each with a rounded cosine.
  const double tolerance = GetParam() == at::kBFloat16 ? 4e-3
                           : GetParam() == at::kHalf   ? 5e-4
                           : GetParam() == at::kFloat  ? 3e-7
                                                       : 1e-14;
  for (const RotateCase& shape : kRotateCases) {
    ModelConfig config = small_rotary_config();
    config.heads = 1;
    config.qk_dim = shape.head_dim;
    const Rotary tables = make_rotary(config, wide_type(GetParam()));
    const int64_t width = shape.heads * shape.head_dim;
    const at::Tensor before = random({shape.rows, width + shape.others}, 5).to(GetParam());
    for (const bool inverse : {false, true}) {
      SCOPED_TRACE(at::IntArrayRef({shape.rows, shape.heads, shape.head_dim, inverse}));
      const at::Tensor x = before.clone();
      rotate(x, {tables.cos, tables.sin, shape.heads, shape.head_dim, shape.n, shape.first},
             inverse);
      const at::Tensor want =
          turned(before.narrow(1, 0, width).reshape({shape.rows, shape.heads, shape.head_dim}),
                 rotary_angles(config), shape.n, shape.first, inverse)
              .view({shape.rows, width});
      EXPECT_LT(relative_error(x.narrow(1, 0, width), want), tolerance);
      EXPECT_TRUE(
          at::equal(x.narrow(1, width, shape.others), before.narrow(1, width, shape.others)));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, Rotate,
                         testing::Values(at::kFloat, at::kBFloat16, at::kHalf, at::kDouble),
                         [](const auto& info) { return c10::toString(info.param); });

// The same q and k at all positions: their product depends on the distance alone.
TEST(RotateProperty, ProductsDependOnTheDistance) {
  const ModelConfig config = small_rotary_config();
  const Rotary tables = make_rotary(config, at::kDouble);
  const int64_t n = config.seq_len;
  const at::Tensor x = random({1, 32}, 6).repeat({n, 1});  // q, then k, of 16 each
  rotate(x, {tables.cos, tables.sin, 2, 16, n, 0}, false);
  const at::Tensor products = at::mm(x.narrow(1, 0, 16), x.narrow(1, 16, 16).t());
  for (int64_t distance = 1 - n; distance < n; ++distance) {
    const at::Tensor same = products.diagonal(distance);
    EXPECT_LT((same - same[0]).abs().max().item<double>(), 1e-12) << distance;
  }
  const double spread = (products[n - 1] - products[n - 1][0]).abs().max().item<double>();
  EXPECT_GT(spread, 0.1) << "the distance changes nothing";
}

// Only a part of the positions at once gives what all at once do.
TEST(RotateProperty, FirstPositionIsAnOffset) {
  const ModelConfig config = rotary_config();
  const Rotary tables = make_rotary(config, at::kFloat);
  const at::Tensor whole = random({64, 32}, 7).to(at::kFloat);
  const at::Tensor part = whole.narrow(0, 40, 9).clone();
  rotate(whole, {tables.cos, tables.sin, 2, 16, 64, 0}, false);
  rotate(part, {tables.cos, tables.sin, 2, 16, 9, 40}, false);
  EXPECT_TRUE(at::equal(part, whole.narrow(0, 40, 9)));
}

// ---- the model ----------------------------------------------------------------------------------

// The logits of a dense rotary model, by libtorch's operations and `turned`.
at::Tensor reference_logits(const SparseTransformer& model, const at::Tensor& tokens) {
  const ModelConfig& c = model.config();
  size_t next = 0;
  const auto take = [&] { return model.parameters()[next++].tensor.detach(); };
  const auto norm = [&](const at::Tensor& x, double eps) {
    const at::Tensor weight = take(), bias = take();
    return at::layer_norm(x, {c.d_model}, weight, bias, eps);
  };
  const auto linear = [&](const at::Tensor& x) {
    const at::Tensor weight = take(), bias = take();
    return at::matmul(x, weight.t()) + bias;
  };
  const int64_t batch = tokens.size(0), n = tokens.size(1), head_dim = c.qk_head_dim();
  const int64_t kv_heads = c.kv_heads_or_default(), members = c.heads / kv_heads;
  const at::Tensor tok = take(), sos = take();
  at::Tensor x = at::cat(
      {sos.expand({batch, 1, c.d_model}), at::embedding(tok, tokens.narrow(1, 0, n - 1))}, 1);
  const at::Tensor hidden = at::ones({n, n}, at::kBool).triu(1);  // keys after the query
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    const auto parts =
        linear(norm(x, c.block_norm_eps))
            .split_with_sizes({c.heads * head_dim, kv_heads * head_dim, kv_heads * c.v_head_dim()},
                              2);
    const auto rotated = [&](const at::Tensor& part, int64_t heads) {
      return turned(part.reshape({batch * n, heads, head_dim}), rotary_angles(c), n, 0, false)
          .view({batch, n, heads, head_dim})
          .transpose(1, 2)
          .repeat_interleave(c.heads / heads, 1);
    };
    const at::Tensor v = parts[2]
                             .reshape({batch, n, kv_heads, c.v_head_dim()})
                             .transpose(1, 2)
                             .repeat_interleave(members, 1);
    const at::Tensor logits =
        at::matmul(rotated(parts[0], c.heads), rotated(parts[1], kv_heads).transpose(2, 3)) /
        std::sqrt(static_cast<double>(head_dim));
    const at::Tensor out = at::matmul(at::softmax(logits.masked_fill(hidden, -INFINITY), 3), v);
    x = x + linear(out.transpose(1, 2).reshape({batch, n, c.v_dim_or_default()}));
    const at::Tensor inner = linear(norm(x, c.block_norm_eps));
    x = x + linear(inner * at::sigmoid(inner * 1.702));
  }
  const at::Tensor y = norm(x, c.final_norm_eps);
  return at::matmul(y, take().t());
}

TEST(RotaryModel, IsTheModelWrittenOut) {
  for (const int64_t kv_heads : {0, 2}) {
    ModelConfig config = small_rotary_config();
    config.patterns = {"dense"};
    config.precision = Precision::kFloat64;
    config.heads = 4;
    config.kv_heads = kv_heads;
    config.qk_dim = 96;
    config.v_dim = 64;
    config.init = LinearInit::kGpt2;
    config.linear_gain = 10;
    config.embedding_gain = 10;
    const SparseTransformer model(config);
    const at::Tensor tokens = random_tokens(3, 50);
    const at::NoGradGuard no_grad;
    EXPECT_LT(relative_error(model.forward(tokens), reference_logits(model, tokens)), 1e-12);
  }
}

TEST(RotaryModel, HasNoPositionTables) {
  const auto infos = parameter_infos(rotary_config());
  EXPECT_EQ(infos[0].name, "tok");
  EXPECT_EQ(infos[1].name, "sos");
  EXPECT_EQ(infos[2].name, "blocks.0.ln1.weight");
}

}  // namespace
}  // namespace lace::model
