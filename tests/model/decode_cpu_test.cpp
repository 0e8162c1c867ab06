// Decoding on a CPU equals forward, whatever the pattern, the positions and the instruction set.

#include <cstdlib>
#include <optional>
#include <random>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "lace/model.h"

#include "core/instruction_set.h"
#include "model/decode.h"
#include "pattern/random_patterns.h"
#include "small_model.h"

namespace lace {
namespace {

// Relative, of logits: float32 sums of a few hundred terms in another order. bf16: forward rounds
// queries, keys, attention and branches to 8 bits, each an error of up to 2⁻⁹ that some layers add
// up; decoding rounds less.
constexpr double kFloat32 = 1e-5, kBFloat16 = 3e-2;

class WithKernel {
 public:
  explicit WithKernel(const char* kernel) { setenv("LACE_KERNEL", kernel, 1); }
  ~WithKernel() { unsetenv("LACE_KERNEL"); }
};

std::vector<const char*> kernels_here() {
  std::vector<const char*> names = {"cpu_portable"};
  if (lacks(InstructionSet::kAvx2).empty()) names.push_back("cpu_avx2");
  if (lacks(InstructionSet::kAvx512).empty()) names.push_back("cpu_avx512");
  if (lacks_avx512_bf16().empty()) names.push_back("cpu_avx512_bf16");
  return names;
}

ModelConfig random_config(std::mt19937_64& rng) {
  using testing::pick;
  ModelConfig config;
  config.seq_len = pick(rng, 9, 50);
  config.layers = 2;
  config.heads = 4;
  config.kv_heads = std::array{1, 2, 4}[static_cast<size_t>(pick(rng, 0, 2))];
  config.d_model = pick(rng, 1, 3) * 20;
  config.qk_dim = 4 * 2 * pick(rng, 1, 20);
  config.v_dim = 4 * pick(rng, 1, 40);
  config.tied = pick(rng, 0, 1) == 1;
  config.init = LinearInit::kGpt2;
  config.embedding_gain = config.linear_gain = 10;
  config.seed = static_cast<uint64_t>(pick(rng, 0, 1000));
  config.patterns.clear();
  for (int64_t i = pick(rng, 1, 2); i > 0; --i) {
    const Pattern pattern = testing::random_pattern(rng, 3);
    config.patterns.push_back(Pattern(pattern.entries(), true).to_string());
  }
  const int64_t kind = pick(rng, 0, 2);
  config.positions = std::array{PositionKind::kText, PositionKind::kRotary,
                                PositionKind::kImage}[static_cast<size_t>(kind)];
  if (config.positions == PositionKind::kImage) {
    config.image_height = 3;
    config.image_width = pick(rng, 1, 6);
    config.image_channels = 3;
    config.seq_len = 9 * config.image_width;
  }
  return config;
}

// The logits of forward for all prefixes [batch, seq_len, vocab].
at::Tensor wanted(const SparseTransformer& model, const at::Tensor& tokens) {
  const c10::NoGradGuard no_grad;
  return model.forward(tokens);
}

// A prompt in one pass or in steps, then symbol by symbol, now and then some of them taken back.
void expect_equals_forward(const SparseTransformer& model, std::mt19937_64& rng, double tolerance) {
  const int64_t seq_len = model.config().seq_len, rollback = testing::pick(rng, 0, 5);
  const at::Tensor tokens = random_tokens(2, seq_len);
  const at::Tensor want = wanted(model, tokens);
  const auto state = model.start_decoding(2, rollback);
  int64_t done = 0, furthest = 0;
  for (bool first = true; done < seq_len - 1; first = false) {
    const int64_t count =
        std::min(testing::pick(rng, first ? 0 : 1, first ? 20 : 2), seq_len - 1 - done);
    const at::Tensor logits = model.decode(*state, tokens.narrow(1, done, count));
    done += count;
    furthest = std::max(furthest, done);
    ASSERT_EQ(state->symbols(), done);
    ASSERT_LT(relative_error(logits, want.select(1, done)), tolerance)
        << model.config().patterns[0] << ", after " << done;
    const int64_t back = std::min(done, rollback - (furthest - done));
    if (back > 0 && testing::pick(rng, 0, 5) == 0) {
      state->rollback(back);
      done -= back;
    }
  }
}

TEST(DecodeCpu, EqualsForwardForRandomModels) {
  std::mt19937_64 rng(41);
  for (int i = 0; i < 60; ++i) {
    const SparseTransformer model(random_config(rng));
    expect_equals_forward(model, rng, kFloat32);
    if (HasFatalFailure()) return;
  }
}

TEST(DecodeCpu, EqualsForwardWithEveryInstructionSet) {
  std::mt19937_64 rng(42);
  for (const char* kernel : kernels_here()) {
    const WithKernel with(kernel);
    for (const auto& [precision, tolerance] :
         {std::pair{Precision::kFloat32, kFloat32}, std::pair{Precision::kBFloat16, kBFloat16},
          std::pair{Precision::kFloat16, kBFloat16 / 8}}) {
      for (int i = 0; i < 4; ++i) {
        ModelConfig config = random_config(rng);
        config.embedding_gain = config.linear_gain = 3;
        config.precision = precision;
        const SparseTransformer model(config);
        expect_equals_forward(model, rng, tolerance);
        if (HasFatalFailure()) {
          ADD_FAILURE() << kernel << ", " << name(precision);
          return;
        }
      }
    }
  }
}

TEST(DecodeCpu, SequencesDependOnNothingBesideThem) {
  std::mt19937_64 rng(43);
  const int threads = at::get_num_threads();
  for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
    ModelConfig config = random_config(rng);
    config.precision = precision;
    config.positions = PositionKind::kRotary;
    config.seq_len = 40;
    const SparseTransformer model(config);
    const at::Tensor tokens = random_tokens(7, config.seq_len - 1);
    const auto run = [&](int64_t first, int64_t batch) {
      const auto state = model.start_decoding(batch);
      const at::Tensor own = tokens.narrow(0, first, batch);
      const int64_t prompt = tokens.size(1) / 2;
      at::Tensor logits = model.decode(*state, own.narrow(1, 0, prompt));
      for (int64_t i = prompt; i < tokens.size(1); ++i) {
        logits = model.decode(*state, own.narrow(1, i, 1));
      }
      return logits;
    };
    const at::Tensor all = run(0, 7);
    for (const int64_t b : {0, 3, 6}) EXPECT_TRUE(at::equal(all.narrow(0, b, 1), run(b, 1))) << b;
    at::set_num_threads(threads == 1 ? 3 : 1);
    EXPECT_TRUE(at::equal(all, run(0, 7)));
    at::set_num_threads(threads);
  }
}

TEST(DecodeCpu, ForksGoTheirOwnWays) {
  ModelConfig config = small_config();
  config.patterns = {"local(8) | sinks(2)", "fixed(8, 2, 2)", "strided(8)"};
  const SparseTransformer model(config);
  randomize_output(model);
  const at::Tensor prompt = random_tokens(2, 20), rest = random_tokens(6, 30);
  const auto state = model.start_decoding(2);
  model.decode(*state, prompt);
  const auto fork = state->fork(3);
  EXPECT_EQ(fork->batch(), 6);
  const at::Tensor whole = at::cat({prompt.repeat_interleave(3, 0), rest}, 1);
  const at::Tensor want = wanted(model, whole);
  for (int64_t i = 0; i + 1 < rest.size(1); ++i) {
    const at::Tensor logits = model.decode(*fork, rest.narrow(1, i, 1));
    EXPECT_LT(relative_error(logits, want.select(1, 21 + i)), kFloat32) << i;
  }
  // What it came from stands where it stood.
  const at::Tensor next = model.decode(*state, rest.narrow(0, 0, 2).narrow(1, 0, 1));
  EXPECT_LT(relative_error(next[0], want[0][21]), kFloat32);
}

TEST(DecodeCpu, RollbackNamesItsLimits) {
  const SparseTransformer model(small_config());
  const auto state = model.start_decoding(1, 4);
  EXPECT_THROW(state->rollback(1), Error);
  model.decode(*state, random_tokens(1, 20));
  EXPECT_THROW(state->rollback(-1), Error);
  EXPECT_THROW(state->rollback(5), Error);
  state->rollback(3);
  EXPECT_THROW(state->rollback(2), Error);
  state->rollback(1);
  EXPECT_EQ(state->symbols(), 16);
  model.decode(*state, random_tokens(1, 2));
  EXPECT_THROW(state->rollback(3), Error);
  state->rollback(2);
  EXPECT_THROW(model.start_decoding(1, -1), Error);
}

TEST(DecodeCpu, CachesHoldWhatPatternsCanRead) {
  const auto bytes = [](const char* pattern, int64_t symbols) {
    ModelConfig config = small_config();
    config.layers = 1;
    config.seq_len = 1024;
    config.patterns = {pattern};
    return model::decoding_at(SparseTransformer(config), 1, symbols)->cache_bytes();
  };
  constexpr int64_t kRow = 2 * (16 + 16) * 4;  // of two heads
  EXPECT_EQ(bytes("dense", 999), 1000 * kRow);
  EXPECT_EQ(bytes("strided(32)", 999), 1000 * kRow);
  EXPECT_EQ(bytes("local(128)", 999), 128 * kRow);
  EXPECT_EQ(bytes("fixed(64, 16, 1)", 999), (64 + 15 * 16) * kRow);
}

// As on a GPU.
TEST(DecodeTorch, EqualsForwardAndGoesBack) {
  ModelConfig config = small_config();
  config.patterns = {"local(8) | global{0, -1}", "fixed(8, 2, 2)"};
  const SparseTransformer model(config);
  randomize_output(model);
  const at::Tensor tokens = random_tokens(2, config.seq_len);
  const at::Tensor want = wanted(model, tokens);
  const auto at_start = model::start_decoding_torch(model.impl(), 1, 6);
  model.decode(*at_start, tokens.narrow(0, 0, 1).narrow(1, 0, 30));
  at_start->rollback(6);
  const auto state = at_start->fork(2);
  for (int64_t i = 24; i < config.seq_len - 1; ++i) {
    const at::Tensor row = tokens.narrow(0, 0, 1).narrow(1, i, 1);
    const at::Tensor logits = model.decode(*state, row.repeat({2, 1}));
    EXPECT_LT(relative_error(logits[1], want[0][i + 1]), kFloat32) << i;
  }
}

}  // namespace
}  // namespace lace
