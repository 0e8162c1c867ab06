// Decoding on a GPU equals forward there, and decoding on a CPU, whatever the pattern, the
// positions, the shape and the batch.

#include <random>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include "lace/model.h"

#include "decode_checks.h"
#include "model/decode.h"

namespace lace {
namespace {

// Relative, of logits. forward rounds queries, keys, attention and branches to 8 bits (fp16: 11),
// each an error of up to 2⁻⁹ that some layers add up; decoding rounds what enters a product alone.
constexpr double kBFloat16 = 3e-2, kFloat16 = kBFloat16 / 8;

double tolerance(Precision precision) {
  return precision == Precision::kFloat16 ? kFloat16 : kBFloat16;
}

class DecodeCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU";
  }
};

// Head dims of each of the three ways that a key is shared by lanes, in turn.
ModelConfig gpu_config(std::mt19937_64& rng, int i) {
  ModelConfig config = random_config(rng, 8, std::array{64, 128, 256}[static_cast<size_t>(i % 3)]);
  config.embedding_gain = config.linear_gain = 3;
  config.precision = i % 2 == 0 ? Precision::kBFloat16 : Precision::kFloat16;
  return config;
}

// As enwik8's, but for its length and layers.
ModelConfig wide_config() {
  ModelConfig config;
  config.seq_len = 1024;
  config.layers = 2;
  config.d_model = 512;
  config.heads = 8;
  config.patterns = {"fixed(128, 32, 4)", "local(64) | strided(64)"};
  config.precision = Precision::kBFloat16;
  config.init = LinearInit::kGpt2;
  config.embedding_gain = config.linear_gain = 3;
  return config;
}

TEST_F(DecodeCuda, EqualsForwardForRandomModels) {
  std::mt19937_64 rng(51);
  for (int i = 0; i < 36; ++i) {
    const ModelConfig config = gpu_config(rng, i);
    const SparseTransformer model(config, at::kCUDA);
    const int64_t batch = std::array{1, 2, 3, 9}[static_cast<size_t>(i % 4)];
    expect_equals_forward(model, rng, tolerance(config.precision), batch, i % 2 == 0);
    if (HasFatalFailure()) {
      ADD_FAILURE() << i << ", " << name(config.precision);
      return;
    }
  }
}

TEST_F(DecodeCuda, EqualsTheCpu) {
  std::mt19937_64 rng(52);
  for (int i = 0; i < 12; ++i) {
    const ModelConfig config = gpu_config(rng, i);
    const SparseTransformer cpu(config), gpu(config, at::kCUDA);
    const at::Tensor tokens = random_tokens(3, config.seq_len - 1);
    const auto on_cpu = cpu.start_decoding(3), on_gpu = gpu.start_decoding(3);
    EXPECT_EQ(on_gpu->batch(), 3);
    for (int64_t n = 0; n < tokens.size(1); ++n) {
      const at::Tensor fresh = tokens.narrow(1, n, 1);
      const at::Tensor want = cpu.decode(*on_cpu, fresh), got = gpu.decode(*on_gpu, fresh);
      ASSERT_TRUE(got.is_cpu());
      ASSERT_LT(relative_error(got, want), tolerance(config.precision)) << i << ", after " << n;
      ASSERT_EQ(on_gpu->cache_bytes(), on_cpu->cache_bytes());
    }
  }
}

// All blocks, several ranges of keys and columns, norms apart and by each block; a prompt in one
// pass, from the model's own stream of bytes.
TEST_F(DecodeCuda, WideModelsEqualForward) {
  for (const auto& [positions, kv_heads] :
       {std::pair<PositionKind, int64_t>(PositionKind::kText, 8), {PositionKind::kRotary, 2}}) {
    ModelConfig config = wide_config();
    config.positions = positions;
    config.kv_heads = kv_heads;
    const SparseTransformer model(config, at::kCUDA);
    for (const int64_t batch : {1, 5, 8, 64, 70}) {
      const at::Tensor tokens = random_tokens(batch, 710);
      const at::Tensor want = wanted(model, tokens.to(at::kCUDA)).cpu();
      const auto state = model.start_decoding(batch);
      at::Tensor logits = model.decode(*state, tokens.narrow(1, 0, 700));
      for (int64_t n = 700; n < 709; ++n) {
        ASSERT_LT(relative_error(logits, want.select(1, n)), kBFloat16) << batch << ", " << n;
        logits = model.decode(*state, tokens.narrow(1, n, 1));
      }
      ASSERT_LT(relative_error(logits, want.select(1, 709)), kBFloat16) << batch;
    }
  }
}

// Batches differ in the order of attention's sums alone: single roundings to 8 bits then go the
// other way.
TEST_F(DecodeCuda, SequencesDependOnTheirBatchByRoundingAlone) {
  const SparseTransformer model(wide_config(), at::kCUDA);
  const at::Tensor tokens = random_tokens(64, 300);
  const auto run = [&](int64_t first, int64_t batch) {
    const auto state = model.start_decoding(batch);
    at::Tensor logits;
    for (int64_t n = 0; n < tokens.size(1); ++n) {
      logits = model.decode(*state, tokens.narrow(0, first, batch).narrow(1, n, 1));
    }
    return logits;
  };
  const at::Tensor all = run(0, 64);
  EXPECT_TRUE(at::equal(all, run(0, 64)));  // and not on the run
  for (const int64_t b : {0, 31, 63}) {
    EXPECT_TRUE(at::equal(run(b, 1), run(b, 1))) << b;
    EXPECT_LT(relative_error(all.narrow(0, b, 1), run(b, 1)), kBFloat16 / 3) << b;
  }
}

TEST_F(DecodeCuda, MoreRunsThanALaunchCarries) {
  ModelConfig config = wide_config();
  config.patterns = {"random(100, 2, 5) | local(9)"};
  config.heads = 4;
  const SparseTransformer model(config, at::kCUDA);
  const at::Tensor tokens = random_tokens(2, 960);
  const at::Tensor want = wanted(model, tokens.to(at::kCUDA)).cpu();
  for (const int64_t batch : {1, 2}) {
    const auto state = model.start_decoding(batch);
    const auto decode = [&](int64_t first, int64_t count) {
      return model.decode(*state, tokens.narrow(0, 0, batch).narrow(1, first, count));
    };
    at::Tensor logits = decode(0, 950);
    for (int64_t n = 950; n < 959; ++n) {
      logits = decode(n, 1);
      ASSERT_LT(relative_error(logits, want.narrow(0, 0, batch).select(1, n + 1)), kBFloat16)
          << batch << ", " << n;
    }
  }
}

// One sequence whose blocks are few, so that each has many of its keys.
TEST_F(DecodeCuda, ManyKeysABlock) {
  ModelConfig config = wide_config();
  config.patterns = {"dense"};
  config.d_model = 16;
  config.heads = 2;
  const SparseTransformer model(config, at::kCUDA);
  const at::Tensor tokens = random_tokens(1, 960);
  const at::Tensor want = wanted(model, tokens.to(at::kCUDA)).cpu();
  const auto state = model.start_decoding(1);
  at::Tensor logits = model.decode(*state, tokens.narrow(1, 0, 950));
  for (int64_t n = 950; n < 959; ++n) {
    logits = model.decode(*state, tokens.narrow(1, n, 1));
    ASSERT_LT(relative_error(logits, want.select(1, n + 1)), kBFloat16) << n;
  }
}

TEST_F(DecodeCuda, ForksGoTheirOwnWays) {
  ModelConfig config = small_config();
  config.d_model = 64;
  config.precision = Precision::kFloat16;
  config.patterns = {"local(8) | sinks(2)", "fixed(8, 2, 2)", "strided(8)"};
  const SparseTransformer model(config, at::kCUDA);
  randomize_output(model);
  expect_forks_go_apart(model, kFloat16);
}

TEST_F(DecodeCuda, RollbackNamesItsLimits) {
  ModelConfig config = small_config();
  config.precision = Precision::kBFloat16;
  const SparseTransformer model(config, at::kCUDA);
  const auto state = model.start_decoding(1, 4);
  model.decode(*state, random_tokens(1, 20));
  EXPECT_THROW(state->rollback(5), Error);
  state->rollback(4);
  EXPECT_THROW(state->rollback(1), Error);
  EXPECT_EQ(state->symbols(), 16);
  EXPECT_THROW(state->fork(0), Error);
}

TEST_F(DecodeCuda, SeveralSymbolsAreStepsOfTheSameState) {
  const SparseTransformer model(wide_config(), at::kCUDA);
  const at::Tensor tokens = random_tokens(1, 60);
  const auto together = model.start_decoding(1), apart = model.start_decoding(1);
  at::Tensor one, other;
  for (int64_t n = 0; n < 60; n += 6) {
    one = model.decode(*together, tokens.narrow(1, n, 6));
    for (int64_t i = n; i < n + 6; ++i) other = model.decode(*apart, tokens.narrow(1, i, 1));
    ASSERT_TRUE(at::equal(one, other)) << n;
  }
}

TEST_F(DecodeCuda, RandomCachesHaveTheSizeOfTrueOnes) {
  ModelConfig config = wide_config();
  const SparseTransformer model(config, at::kCUDA);
  const auto filled = model::decoding_at(model, 2, 600);
  const auto state = model.start_decoding(2);
  model.decode(*state, random_tokens(2, 600));
  EXPECT_EQ(filled->symbols(), 600);
  EXPECT_EQ(filled->cache_bytes(), state->cache_bytes());
  EXPECT_TRUE(at::isfinite(model.decode(*filled, random_tokens(2, 1))).all().item<bool>());
  EXPECT_GT(model::decode_cost(*filled).cache_bytes, 0);
}

TEST_F(DecodeCuda, TheSecondGpuToo) {
  if (torch::cuda::device_count() < 2) GTEST_SKIP() << "one GPU";
  const SparseTransformer first(wide_config(), at::Device(at::kCUDA, 0)),
      second(wide_config(), at::Device(at::kCUDA, 1));
  const at::Tensor tokens = random_tokens(2, 30);
  const auto a = first.start_decoding(2), b = second.start_decoding(2);
  for (int64_t n = 0; n < 30; ++n) {
    const at::Tensor fresh = tokens.narrow(1, n, 1);
    EXPECT_LT(relative_error(second.decode(*b, fresh), first.decode(*a, fresh)), 1e-6) << n;
  }
}

}  // namespace
}  // namespace lace
