#pragma once

#include <algorithm>
#include <array>
#include <random>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "lace/model.h"

#include "pattern/random_patterns.h"
#include "small_model.h"

namespace lace {

// A model of two layers of any shape, patterns and positions. head_step: what head dims are
// multiples of; most_dim: their most.
inline ModelConfig random_config(std::mt19937_64& rng, int64_t head_step = 1,
                                 int64_t most_dim = 40) {
  using testing::pick;
  ModelConfig config;
  config.seq_len = pick(rng, 9, 50);
  config.layers = 2;
  config.heads = 4;
  config.kv_heads = std::array{1, 2, 4}[static_cast<size_t>(pick(rng, 0, 2))];
  config.d_model = pick(rng, 1, 3) * 20;
  const int64_t pairs = std::max<int64_t>(2, head_step);
  config.qk_dim = 4 * pairs * pick(rng, 1, most_dim / pairs);
  config.v_dim = 4 * head_step * pick(rng, 1, most_dim / head_step);
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
inline at::Tensor wanted(const SparseTransformer& model, const at::Tensor& tokens) {
  const c10::NoGradGuard no_grad;
  return model.forward(tokens);
}

// A prompt in one pass or in steps, then symbol by symbol, now and then some of them taken back.
// host: tokens are given from there, whatever the model's device.
inline void expect_equals_forward(const SparseTransformer& model, std::mt19937_64& rng,
                                  double tolerance, int64_t batch = 2, bool host = true) {
  const int64_t seq_len = model.config().seq_len, rollback = testing::pick(rng, 0, 5);
  at::Tensor tokens = random_tokens(batch, seq_len);
  const at::Tensor want = wanted(model, tokens.to(model.device())).cpu();
  if (!host) tokens = tokens.to(model.device());
  const auto state = model.start_decoding(batch, rollback);
  int64_t done = 0, furthest = 0;
  for (bool first = true; done < seq_len - 1; first = false) {
    const int64_t count =
        std::min(testing::pick(rng, first ? 0 : 1, first ? 20 : 2), seq_len - 1 - done);
    const at::Tensor logits = model.decode(*state, tokens.narrow(1, done, count));
    ASSERT_EQ(logits.device(), tokens.device());
    done += count;
    furthest = std::max(furthest, done);
    ASSERT_EQ(state->symbols(), done);
    ASSERT_LT(relative_error(logits.cpu(), want.select(1, done)), tolerance)
        << model.config().patterns[0] << ", after " << done;
    const int64_t back = std::min(done, rollback - (furthest - done));
    if (back > 0 && testing::pick(rng, 0, 5) == 0) {
      state->rollback(back);
      done -= back;
    }
  }
}

// Three copies of each of two sequences go on with symbols of their own, and what they came from
// stands where it stood.
inline void expect_forks_go_apart(const SparseTransformer& model, double tolerance) {
  const at::Tensor prompt = random_tokens(2, 20), rest = random_tokens(6, 30);
  const auto state = model.start_decoding(2);
  model.decode(*state, prompt);
  const auto fork = state->fork(3);
  EXPECT_EQ(fork->batch(), 6);
  const at::Tensor whole = at::cat({prompt.repeat_interleave(3, 0), rest}, 1);
  const at::Tensor want = wanted(model, whole.to(model.device())).cpu();
  for (int64_t i = 0; i + 1 < rest.size(1); ++i) {
    const at::Tensor logits = model.decode(*fork, rest.narrow(1, i, 1));
    EXPECT_LT(relative_error(logits, want.select(1, 21 + i)), tolerance) << i;
  }
  const at::Tensor next = model.decode(*state, rest.narrow(0, 0, 2).narrow(1, 0, 1));
  EXPECT_LT(relative_error(next[0], want[0][21]), tolerance);
}

}  // namespace lace
