#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "lace/model.h"

#include "small_model.h"

namespace lace {
namespace {

// The first call decodes counts[0] symbols, the next ones the others in turn.
void expect_decode_equals_forward(ModelConfig config, double tolerance,
                                  const std::vector<int64_t>& counts) {
  const SparseTransformer model(config);
  randomize_output(model);
  const at::Tensor tokens = random_tokens(2, config.seq_len);
  c10::NoGradGuard no_grad;
  const at::Tensor want = model.forward(tokens);
  const auto state = model.start_decoding(2);
  int64_t done = 0;
  for (size_t i = 0; done < config.seq_len - 1; ++i) {
    const size_t at = i == 0 ? 0 : 1 + (i - 1) % (counts.size() - 1);
    const int64_t count = std::min(counts[at], config.seq_len - 1 - done);
    const at::Tensor logits = model.decode(*state, tokens.narrow(1, done, count));
    done += count;
    EXPECT_LT(relative_error(logits, want.select(1, done)), tolerance) << "after " << done;
  }
  EXPECT_THROW(model.decode(*state, tokens.narrow(1, 0, 1)), Error);
}

TEST(Decode, OneByOneEqualsForward) { expect_decode_equals_forward(small_config(), 1e-5, {0, 1}); }

TEST(Decode, InPiecesEqualsForward) {
  expect_decode_equals_forward(small_config(), 1e-5, {10, 1, 7});
}

TEST(Decode, HalfPrecisionEqualsForward) {
  ModelConfig config = small_config();
  config.precision = Precision::kBFloat16;
  expect_decode_equals_forward(config, 5e-2, {0, 5, 1});
  config.residual = ResidualType::kCompute;
  expect_decode_equals_forward(config, 5e-2, {0, 5, 1});
}

TEST(Decode, OtherShapesEqualForward) {
  ModelConfig config = small_config();
  config.heads = 4;
  config.kv_heads = 2;
  config.qk_dim = 64;
  config.seq_len = 60;
  config.positions = PositionKind::kImage;
  config.image_height = 4;
  config.image_width = 5;
  config.image_channels = 3;
  config.patterns = {"heads(2*dense, 2*sinks(3))", "summary(8, 2) | global{0..3, -8..-2}"};
  expect_decode_equals_forward(config, 1e-5, {3, 1});
}

TEST(Decode, OddHeadDimsEqualForward) {
  ModelConfig config = small_config();
  config.qk_dim = config.heads * 7;
  config.v_dim = config.heads * 300;
  expect_decode_equals_forward(config, 1e-5, {3, 1});
}

TEST(Decode, RotaryEqualsForward) {
  ModelConfig config = small_rotary_config();
  expect_decode_equals_forward(config, 1e-5, {0, 1});
  expect_decode_equals_forward(config, 1e-5, {10, 1, 7});
  config.kv_heads = 1;
  config.precision = Precision::kFloat64;
  expect_decode_equals_forward(config, 1e-12, {5, 2});
  config.precision = Precision::kBFloat16;
  expect_decode_equals_forward(config, 5e-2, {0, 5, 1});
}

TEST(Decode, ParametersChangedMeanwhileAreAnError) {
  const SparseTransformer model(small_config());
  const auto state = model.start_decoding(1);
  model.decode(*state, random_tokens(1, 5));
  {
    const at::NoGradGuard no_grad;
    model.parameters()[7].tensor.mul_(2);
  }
  try {
    model.decode(*state, random_tokens(1, 1));
    ADD_FAILURE() << "keys of other parameters were used";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()),
              "[model] parameters must stay as they are while a sequence is decoded, " +
                  model.parameters()[7].name + " has changed");
  }
  const auto fresh = model.start_decoding(1);
  model.decode(*fresh, random_tokens(1, 5));
}

TEST(Decode, NamesWrongArguments) {
  const SparseTransformer model(small_config());
  EXPECT_THROW(model.start_decoding(0), Error);
  const auto state = model.start_decoding(1);
  EXPECT_THROW(model.decode(*state, random_tokens(2, 3)), Error);
  model.decode(*state, at::zeros({1, 0}, at::kLong));
  EXPECT_THROW(model.decode(*state, at::zeros({1, 0}, at::kLong)), Error);
}

}  // namespace
}  // namespace lace
