#include <algorithm>
#include <chrono>

#include <ATen/ATen.h>

#include "lace/train.h"

namespace lace {
namespace {

constexpr int64_t kProbeTokens = 8192;

// Bytes that a micro-batch's forward pass keeps for backward, by counting the tensors of a block.
double activation_bytes(const Recipe& recipe) {
  const ModelConfig& m = recipe.model;
  const auto tokens = static_cast<double>(recipe.train.batch * m.seq_len);
  const double wide = m.precision == Precision::kFloat64 ? 8 : 4;
  const double element = m.precision == Precision::kFloat32   ? 4
                         : m.precision == Precision::kFloat64 ? 8
                                                              : 2;
  const double residual = m.residual == ResidualType::kWide ? wide : element;
  const auto d = static_cast<double>(m.d_model);
  const double attention = element * static_cast<double>(m.v_dim_or_default());
  const double block = residual * 2 * d + attention +
                       element * (2 * d + static_cast<double>(m.qkv_width() + 2 * m.ff_width()));
  const auto layers = static_cast<double>(m.layers);
  const double blocks = m.recompute ? layers * (residual * d + attention) + block : layers * block;
  return tokens * (blocks + 2 * wide * static_cast<double>(m.vocab));
}

}  // namespace

TrainEstimate estimate_training(const Recipe& recipe, at::Device device) {
  recipe.check();
  TrainEstimate estimate;
  estimate.parameters = parameter_count(recipe.model);
  estimate.tokens_per_step = recipe.train.batch * recipe.train.accumulate * recipe.model.seq_len;
  const double scalar = recipe.model.precision == Precision::kFloat64 ? 8 : 4;
  const double copies = recipe.optimizer.ema > 0 ? 5 : 4;  // weights, gradients, m, v, mean
  estimate.memory_bytes =
      copies * scalar * static_cast<double>(estimate.parameters) + activation_bytes(recipe);

  ModelConfig probe = recipe.model;
  probe.layers = std::min(probe.layers, static_cast<int64_t>(probe.patterns.size()));
  const SparseTransformer model(probe, device);
  const int64_t batch = std::clamp<int64_t>(kProbeTokens / probe.seq_len, 1, recipe.train.batch);
  const at::Tensor tokens = at::randint(probe.vocab, {batch, probe.seq_len}, at::kByte).to(device);
  double seconds = 0;
  for (int round = 0; round < 3; ++round) {  // the first also compiles plans
    if (round > 0 && seconds > 5) break;
    const auto start = std::chrono::steady_clock::now();
    model.loss(tokens, {.training = true}).backward();
    model.parameters().front().tensor.grad().sum().item<double>();  // waits for a GPU
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    seconds = round == 0 ? took.count() : std::min(seconds, took.count());
  }
  const double probe_share = static_cast<double>(batch * probe.seq_len * probe.layers) /
                             static_cast<double>(estimate.tokens_per_step * recipe.model.layers);
  estimate.step_seconds = seconds / probe_share;
  estimate.steps = recipe.train.steps;
  if (recipe.train.max_minutes > 0) {
    const auto fit = static_cast<int64_t>(60 * recipe.train.max_minutes / estimate.step_seconds);
    estimate.steps = recipe.train.steps > 0 ? std::min(fit, recipe.train.steps) : fit;
  }
  estimate.seconds = static_cast<double>(estimate.steps) * estimate.step_seconds;
  return estimate;
}

}  // namespace lace
