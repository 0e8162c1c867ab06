#pragma once

#include <ATen/ATen.h>

#include "lace/model.h"

namespace lace {

// A model that a test can afford: 3 layers, 64 slots, interleaved patterns.
inline ModelConfig small_config() {
  ModelConfig config;
  config.seq_len = 64;
  config.layers = 3;
  config.d_model = 32;
  config.heads = 2;
  config.patterns = {"fixed(8, 2, 2)", "local(8) | strided(8)"};
  return config;
}

// The same with rotary positions whose angles YaRN scales, some of them in part.
inline ModelConfig small_rotary_config() {
  ModelConfig config = small_config();
  config.positions = PositionKind::kRotary;
  config.rotary_base = 100;
  config.rotary_scaling = RotaryScaling::kYarn;
  config.rotary_factor = 4;
  config.rotary_beta_fast = 2;
  return config;
}

inline at::Tensor random_tokens(int64_t batch, int64_t n, int64_t vocab = 256) {
  auto random = at::make_generator<at::CPUGeneratorImpl>(7);
  return at::randint(0, vocab, {batch, n}, random, at::TensorOptions().dtype(at::kLong));
}

// Gives W_out, which starts at zero, values that let gradients through.
inline void randomize_output(const SparseTransformer& model) {
  c10::NoGradGuard no_grad;
  auto random = at::make_generator<at::CPUGeneratorImpl>(11);
  const at::Tensor& weight = model.parameters().back().tensor;
  weight.detach().copy_(
      at::normal(0, 0.1, weight.sizes(), random, at::TensorOptions().dtype(at::kFloat)));
}

// The gradients of one loss, by parameter.
inline std::vector<at::Tensor> gradients(const SparseTransformer& model, const at::Tensor& tokens,
                                         const PassMode& mode = {}) {
  for (const auto& [name, tensor] : model.parameters()) tensor.mutable_grad().reset();
  model.loss(tokens, mode).backward();
  std::vector<at::Tensor> result;
  for (const auto& [name, tensor] : model.parameters()) result.push_back(tensor.grad());
  return result;
}

inline double relative_error(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.to(at::kDouble), y = b.to(at::kDouble);
  return ((x - y).norm() / y.norm().clamp_min(1e-30)).item<double>();
}

}  // namespace lace
