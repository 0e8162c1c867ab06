// Decoding on a CPU equals forward, whatever the pattern, the positions and the instruction set.

#include <cstdlib>
#include <random>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "lace/model.h"

#include "core/instruction_set.h"
#include "decode_checks.h"
#include "model/decode.h"

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
  expect_forks_go_apart(model, kFloat32);
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

}  // namespace
}  // namespace lace
