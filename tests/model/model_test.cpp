#include "lace/model.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "small_model.h"

namespace lace {
namespace {

TEST(SparseTransformer, StartsAtTheUniformGuess) {
  const SparseTransformer model(small_config());
  const at::Tensor tokens = random_tokens(2, 64);
  EXPECT_NEAR(model.loss(tokens).item<double>(), std::log(256.0), 1e-6);
  EXPECT_TRUE(at::equal(model.forward(tokens), at::zeros({2, 64, 256})));
}

TEST(SparseTransformer, StartValuesHaveTheStatedSpread) {
  ModelConfig config = small_config();
  config.d_model = 128;
  const SparseTransformer model(config);
  const auto infos = parameter_infos(config);
  ASSERT_EQ(model.parameters().size(), infos.size());
  for (size_t i = 0; i < infos.size(); ++i) {
    const auto& [name, tensor] = model.parameters()[i];
    EXPECT_EQ(name, infos[i].name);
    EXPECT_EQ(tensor.sizes(), at::IntArrayRef(infos[i].shape));
    EXPECT_TRUE(tensor.is_leaf() && tensor.requires_grad());
    if (infos[i].init_std > 0) {
      const auto count = static_cast<double>(tensor.numel());
      EXPECT_NEAR(tensor.std().item<double>() / infos[i].init_std, 1, 5 / std::sqrt(2 * count))
          << name;
      EXPECT_NEAR(tensor.mean().item<double>() / infos[i].init_std, 0, 5 / std::sqrt(count))
          << name;
    } else {
      EXPECT_TRUE((tensor == infos[i].init_value).all().item<bool>()) << name;
    }
  }
}

TEST(SparseTransformer, SameSeedSameStart) {
  ModelConfig config = small_config();
  const SparseTransformer a(config), b(config);
  config.seed = 2;
  const SparseTransformer c(config);
  EXPECT_TRUE(at::equal(a.parameters()[0].tensor, b.parameters()[0].tensor));
  EXPECT_FALSE(at::equal(a.parameters()[0].tensor, c.parameters()[0].tensor));
}

// Changing symbol s must change the logits of some slot after s, and of none up to s.
TEST(SparseTransformer, NeverSeesTheFuture) {
  for (const std::string pattern : {"dense", "fixed(8, 2, 2)", "local(8) | strided(8)"}) {
    ModelConfig config = small_config();
    config.patterns = {pattern};
    const SparseTransformer model(config);
    randomize_output(model);
    const at::Tensor tokens = random_tokens(1, 64);
    const at::Tensor before = model.forward(tokens);
    for (const int64_t symbol : {0, 1, 7, 8, 31, 62, 63}) {
      at::Tensor changed = tokens.clone();
      changed[0][symbol] = (changed[0][symbol] + 100) % 256;
      const at::Tensor differs = (model.forward(changed) != before).any(2)[0];
      EXPECT_FALSE(differs.slice(0, 0, symbol + 1).any().item<bool>()) << pattern << symbol;
      if (symbol < 63) {
        EXPECT_TRUE(differs[symbol + 1].item<bool>()) << pattern << symbol;
      }
    }
  }
}

TEST(SparseTransformer, PositionsMatter) {
  const SparseTransformer model(small_config());
  randomize_output(model);
  const at::Tensor logits = model.forward(at::full({1, 64}, 65, at::kLong));
  for (int64_t slot = 2; slot < 64; ++slot) {
    EXPECT_GT((logits[0][slot] - logits[0][slot - 1]).abs().max().item<double>(), 1e-4) << slot;
  }
}

TEST(SparseTransformer, LossIsTheMeanOfNats) {
  const SparseTransformer model(small_config());
  randomize_output(model);
  const at::Tensor tokens = random_tokens(3, 50);
  const at::Tensor nats = model.nats(tokens);
  EXPECT_EQ(nats.sizes(), at::IntArrayRef({3, 50}));
  EXPECT_NEAR(model.loss(tokens).item<double>(), nats.mean().item<double>(), 1e-5);
  EXPECT_NEAR(at::cross_entropy_loss(model.forward(tokens).view({150, 256}), tokens.view(-1))
                  .item<double>(),
              nats.mean().item<double>(), 1e-5);
}

// d loss / d parameter along a random direction, by central differences in float64.
void expect_finite_differences(ModelConfig config) {
  config.precision = Precision::kFloat64;
  const SparseTransformer model(config);
  randomize_output(model);
  const at::Tensor tokens = random_tokens(2, config.seq_len);
  const PassMode mode{true, 3, 1};
  const auto grads = gradients(model, tokens, mode);
  c10::NoGradGuard no_grad;
  auto random = at::make_generator<at::CPUGeneratorImpl>(3);
  for (size_t i = 0; i < grads.size(); ++i) {
    const auto& [name, tensor] = model.parameters()[i];
    const at::Tensor direction = at::normal(0, 1, tensor.sizes(), random, tensor.options());
    const double step = 1e-5;
    tensor.add_(direction, step);
    const double high = model.loss(tokens, mode).item<double>();
    tensor.add_(direction, -2 * step);
    const double low = model.loss(tokens, mode).item<double>();
    tensor.add_(direction, step);
    const double want = (high - low) / (2 * step);
    const double got = (grads[i] * direction).sum().item<double>();
    EXPECT_NEAR(got, want, 1e-7 + 1e-5 * std::abs(want)) << name;
  }
}

TEST(SparseTransformer, GradientsAgreeWithFiniteDifferences) {
  ModelConfig config = small_config();
  config.dropout = 0.3;
  expect_finite_differences(config);
}

TEST(SparseTransformer, GradientsOfOtherShapesAgreeWithFiniteDifferences) {
  ModelConfig config = small_config();
  config.seq_len = 24;
  config.positions = PositionKind::kImage;
  config.image_height = 4;
  config.image_width = 2;
  config.image_channels = 3;
  config.d_model = 40;  // no multiple of 16
  config.heads = 4;
  config.kv_heads = 2;
  config.qk_dim = 32;
  config.v_dim = 64;
  config.ff_multiple = 2;
  config.tied = true;
  config.recompute = true;
  config.patterns = {"heads(2*local(5), 2*strided(3))"};
  expect_finite_differences(config);
}

TEST(SparseTransformer, GradientsOfRotaryPositionsAgreeWithFiniteDifferences) {
  ModelConfig config = small_rotary_config();
  config.dropout = 0.3;
  expect_finite_differences(config);
  config.heads = 4;
  config.kv_heads = 2;
  config.qk_dim = 96;
  config.v_dim = 64;
  config.tied = true;
  config.recompute = true;
  config.rotary_scaling = RotaryScaling::kLinear;
  expect_finite_differences(config);
}

std::vector<at::Tensor> gradients_with(ModelConfig config, Precision precision) {
  config.precision = precision;
  const SparseTransformer model(config);
  randomize_output(model);
  return gradients(model, random_tokens(2, config.seq_len), {true, 3, 1});
}

void expect_lower_precisions_close(ModelConfig config) {
  config.dropout = 0.1;
  const auto exact = gradients_with(config, Precision::kFloat64);
  const std::vector<std::pair<Precision, double>> tolerances = {
      {Precision::kFloat32, 1e-5}, {Precision::kBFloat16, 5e-2}, {Precision::kFloat16, 1e-2}};
  for (const auto& [precision, tolerance] : tolerances) {
    const auto grads = gradients_with(config, precision);
    for (size_t i = 0; i < grads.size(); ++i) {
      EXPECT_EQ(grads[i].scalar_type(), at::kFloat);
      EXPECT_LT(relative_error(grads[i], exact[i]), tolerance)
          << name(precision) << " " << parameter_infos(config)[i].name;
    }
  }
}

TEST(SparseTransformer, LowerPrecisionsStayClose) {
  expect_lower_precisions_close(small_config());
  expect_lower_precisions_close(small_rotary_config());
}

// Head_dims that are no multiple of 8, or of 2, or past 256.
TEST(SparseTransformer, EveryHeadDimComputesTheSame) {
  for (const auto& [qk_head_dim, v_head_dim] : {std::pair{7, 5}, {36, 20}, {12, 300}, {512, 9}}) {
    ModelConfig config = small_config();
    config.kv_heads = 1;
    config.qk_dim = config.heads * qk_head_dim;
    config.v_dim = config.heads * v_head_dim;
    expect_lower_precisions_close(config);
  }
  ModelConfig rotary = small_rotary_config();
  rotary.qk_dim = rotary.heads * 14;
  rotary.v_dim = rotary.heads * 3;
  expect_lower_precisions_close(rotary);
}

// A residual stream of 16 bits rounds at each of its sums: errors are those of the compute type
// still, and far from none.
TEST(SparseTransformer, ResidualOfSixteenBitsStaysClose) {
  for (ModelConfig config : {small_config(), small_rotary_config()}) {
    config.dropout = 0.1;
    const auto exact = gradients_with(config, Precision::kFloat64);
    const std::vector<std::pair<Precision, double>> tolerances = {{Precision::kBFloat16, 6e-2},
                                                                  {Precision::kFloat16, 1e-2}};
    for (const auto& [precision, tolerance] : tolerances) {
      config.residual = ResidualType::kWide;
      const auto wide = gradients_with(config, precision);
      config.residual = ResidualType::kCompute;
      const auto grads = gradients_with(config, precision);
      for (size_t i = 0; i < grads.size(); ++i) {
        EXPECT_EQ(grads[i].scalar_type(), at::kFloat);
        EXPECT_LT(relative_error(grads[i], exact[i]), tolerance)
            << name(precision) << " " << parameter_infos(config)[i].name;
        EXPECT_FALSE(at::equal(grads[i], wide[i])) << parameter_infos(config)[i].name;
      }
    }
  }
}

TEST(SparseTransformer, ResidualOfTheComputeTypeIsWideWhereThatIsTheSame) {
  for (const Precision precision : {Precision::kFloat32, Precision::kFloat64}) {
    ModelConfig config = small_config();
    const auto wide = gradients_with(config, precision);
    config.residual = ResidualType::kCompute;
    const auto compute = gradients_with(config, precision);
    for (size_t i = 0; i < wide.size(); ++i) EXPECT_TRUE(at::equal(wide[i], compute[i])) << i;
  }
}

TEST(SparseTransformer, RecomputeGivesTheSameGradients) {
  for (const auto& [precision, residual] : {std::pair(Precision::kFloat32, ResidualType::kWide),
                                            {Precision::kBFloat16, ResidualType::kWide},
                                            {Precision::kBFloat16, ResidualType::kCompute}}) {
    for (ModelConfig config : {small_config(), small_rotary_config()}) {
      config.dropout = 0.25;
      config.residual = residual;
      const auto kept = gradients_with(config, precision);
      config.recompute = true;
      const auto recomputed = gradients_with(config, precision);
      for (size_t i = 0; i < kept.size(); ++i) {
        EXPECT_TRUE(at::equal(kept[i], recomputed[i])) << parameter_infos(config)[i].name;
      }
    }
  }
}

TEST(SparseTransformer, ThreadsDoNotChangeTheGradients) {
  const int threads = at::get_num_threads();
  for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
    ModelConfig config = small_config();
    config.seq_len = 1024;  // rows enough for products of several tasks
    config.d_model = 64;
    at::set_num_threads(1);
    const auto one = gradients_with(config, precision);
    for (const int count : {2, 3}) {
      at::set_num_threads(count);
      const auto more = gradients_with(config, precision);
      for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(at::equal(one[i], more[i])) << i;
    }
  }
  at::set_num_threads(threads);
}

TEST(SparseTransformer, DropoutOnlyWhileTraining) {
  ModelConfig config = small_config();
  config.dropout = 0.5;
  const SparseTransformer model(config);
  randomize_output(model);
  const at::Tensor tokens = random_tokens(1, 64);
  const double still = model.loss(tokens).item<double>();
  EXPECT_EQ(still, model.loss(tokens, {false, 5, 5}).item<double>());
  const double first = model.loss(tokens, {true, 0, 0}).item<double>();
  EXPECT_NE(first, still);
  EXPECT_EQ(first, model.loss(tokens, {true, 0, 0}).item<double>());
  EXPECT_NE(first, model.loss(tokens, {true, 1, 0}).item<double>());
  EXPECT_NE(first, model.loss(tokens, {true, 0, 1}).item<double>());
}

TEST(SparseTransformer, ChangedParametersAreCastAnew) {
  ModelConfig config = small_config();
  config.precision = Precision::kBFloat16;
  const SparseTransformer model(config);
  const at::Tensor tokens = random_tokens(1, 64);
  EXPECT_NEAR(model.loss(tokens).item<double>(), std::log(256.0), 1e-6);
  randomize_output(model);
  EXPECT_GT(std::abs(model.loss(tokens).item<double>() - std::log(256.0)), 1e-3);
}

TEST(SparseTransformer, InterleavedPatternsCycle) {
  // Layer 2 of the cycle is dense: with it slot 60 sees symbol 0, without it it does not.
  ModelConfig config = small_config();
  const at::Tensor tokens = random_tokens(1, 64);
  at::Tensor changed = tokens.clone();
  changed[0][0] = (changed[0][0] + 1) % 256;
  for (const bool dense : {false, true}) {
    config.patterns = {"local(2)", "local(2)", dense ? "dense" : "local(2)"};
    const SparseTransformer model(config);
    randomize_output(model);
    const at::Tensor differs = (model.forward(tokens) != model.forward(changed)).any(2)[0];
    EXPECT_EQ(differs[60].item<bool>(), dense);
  }
}

template <typename Call>
void expect_error(Call call, const std::string& message) {
  try {
    call();
    ADD_FAILURE() << "accepted: " << message;
  } catch (const Error& error) {
    EXPECT_EQ(error.what(), message);
  }
}

TEST(SparseTransformer, NamesWrongTokens) {
  ModelConfig config = small_config();
  config.vocab = 200;
  const SparseTransformer model(config);
  expect_error([&] { model.loss(at::zeros({64}, at::kLong)); },
               "[model] tokens must have the shape [batch, n], got 1 dimensions");
  expect_error(
      [&] {
        model.loss(at::zeros({1, 65}, at::kLong));
      },
      "[model] tokens may have up to seq_len (64) symbols, got 65");
  expect_error(
      [&] {
        model.loss(at::zeros({1, 64}));
      },
      "[model] tokens must be uint8 or int64, got Float");
  expect_error(
      [&] {
        model.loss(at::full({1, 64}, 200, at::kByte));
      },
      "[model] tokens must be in [0, 200), got 200");
  expect_error(
      [&] {
        model.loss(at::empty({0, 64}, at::kByte));
      },
      "[model] tokens must hold at least one symbol, got none");
}

// Every parameter in turn is changed between a loss and its backward.
void expect_changes_are_noticed(const ModelConfig& config) {
  const SparseTransformer model(config);
  randomize_output(model);
  for (const auto& [name, tensor] : model.parameters()) {
    const at::Tensor loss = model.loss(random_tokens(2, 64), {true, 0, 0});
    {
      const at::NoGradGuard no_grad;
      tensor.mul_(1.5);
    }
    expect_error([&loss = loss] { loss.backward(); },
                 "[model] parameters must stay as they are between a loss and its backward(), " +
                     name + " has changed");
  }
}

TEST(SparseTransformer, ParametersChangedBeforeBackwardAreAnError) {
  for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
    for (const bool recompute : {false, true}) {
      for (const bool tied : {false, true}) {
        ModelConfig config = small_config();
        config.layers = 1;
        config.precision = precision;
        config.recompute = recompute;
        config.tied = tied;
        expect_changes_are_noticed(config);
      }
    }
  }
}

TEST(SparseTransformer, TokensMayChangeBeforeBackward) {
  const SparseTransformer model(small_config());
  randomize_output(model);
  const at::Tensor tokens = random_tokens(2, 64);
  const auto expected = gradients(model, tokens);
  for (const auto& [name, tensor] : model.parameters()) tensor.mutable_grad().reset();
  const at::Tensor loss = model.loss(tokens);
  tokens.fill_(3);  // the caller's next batch, say
  loss.backward();
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_TRUE(at::equal(model.parameters()[i].tensor.grad(), expected[i]))
        << model.parameters()[i].name;
  }
}

// Another pass, with other dropout masks and precision's copies made anew, between the two.
TEST(SparseTransformer, OtherPassesDoNotDisturbALoss) {
  for (const bool recompute : {false, true}) {
    ModelConfig config = small_config();
    config.dropout = 0.25;
    config.recompute = recompute;
    config.precision = Precision::kBFloat16;
    const SparseTransformer model(config);
    randomize_output(model);
    const at::Tensor tokens = random_tokens(2, 64);
    const auto expected = gradients(model, tokens, {true, 4, 0});
    for (const auto& [name, tensor] : model.parameters()) tensor.mutable_grad().reset();
    const at::Tensor loss = model.loss(tokens, {true, 4, 0});
    static_cast<void>(model.loss(random_tokens(1, 40), {false, 9, 1}));
    static_cast<void>(model.nats(tokens));
    loss.backward();
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_TRUE(at::equal(model.parameters()[i].tensor.grad(), expected[i]))
          << model.parameters()[i].name;
    }
  }
}

TEST(SparseTransformer, SecondBackwardIsAnError) {
  const SparseTransformer model(small_config());
  const at::Tensor loss = model.loss(random_tokens(1, 64));
  loss.backward({}, true);
  expect_error([&] { loss.backward(); },
               "[model] backward runs once over a loss, got a second run");
}

}  // namespace
}  // namespace lace
