#include "model/pass.h"

#include <optional>

#include <ATen/ATen.h>

#include "ops/torch_context.h"

namespace lace::model {

Pass::Pass(std::shared_ptr<const SparseTransformer::Impl> impl, const at::Tensor& tokens,
           const at::Tensor& keys, bool keep)
    : model_(std::move(impl)), tokens_(tokens), keys_(keys) {
  const SparseTransformer::Impl& model = *model_;
  const ops::DeterministicScope scope(model.config.deterministic);
  const ModelConfig& config = model.config;
  at::Tensor x =
      embed(tokens, model.indices(tokens.size(1)), model.embedding_tables(), model.residual());
  Norm norm = block_norm(call(0), x);
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const BlockCall block = call(layer);
    BlockActivations activations = block_activations(block, x, norm, keep && !config.recompute);
    const at::Tensor branch = block_branch(block, activations);
    if (keep) inputs_.push_back(x);
    const bool last = layer + 1 == config.layers;
    const size_t weight =
        last ? model.final_norm() : model.block_parameter(layer + 1, kNorm1Weight);
    std::tie(x, norm) = residual_norm(activations.r, branch, block.ff_dropout,
                                      model.arena.parameter(weight).detach(),
                                      model.arena.parameter(weight + 1).detach(),
                                      last ? config.final_norm_eps : config.block_norm_eps);
    if (!keep) continue;
    BlockActivations& kept = activations_.emplace_back();
    if (config.recompute) {
      kept.attention = std::move(activations.attention);
    } else {
      kept = std::move(activations);
    }
  }
  hidden_ = x;
  final_norm_ = norm;
}

BlockCall Pass::call(int64_t layer) const {
  return model_->block_call(layer, tokens_.size(0), tokens_.size(1), keys_);
}

at::Tensor Pass::nats() {
  const ops::DeterministicScope scope(model_->config.deterministic);
  const at::Tensor weight = model_->arena.copy(model_->output_weight());
  logits_ = linear_forward(final_norm_.y, weight, {});
  const CrossEntropy result = cross_entropy(logits_, tokens_.view(-1));
  lse_ = result.lse;
  return result.nats;
}

void Pass::nats_backward(double scale, const at::Tensor& factor, const Gradients& gradients) {
  const ops::DeterministicScope scope(model_->config.deterministic);
  const size_t weight = model_->output_weight();
  const at::Tensor dlogits =
      cross_entropy_grad(std::exchange(logits_, {}), tokens_.view(-1), lse_, scale, factor);
  linear_grad_weight(dlogits, final_norm_.y, gradients.into(weight));
  backward(linear_grad_input(dlogits, model_->arena.copy(weight)), gradients);
}

void Pass::backward(const at::Tensor& dy, const Gradients& gradients) {
  const ops::DeterministicScope scope(model_->config.deterministic);
  const ModelConfig& config = model_->config;
  const auto branch_of = [&](int64_t layer) {
    return Branch{model_->dropout(layer, kFeedForwardBranch, keys_),
                  gradients.into(model_->block_parameter(layer, kFf2Bias))};
  };
  const size_t final_norm = model_->final_norm();
  const Branch top = branch_of(config.layers - 1);
  NormGrads grads =
      layer_norm_grad(dy, hidden_, final_norm_, model_->arena.parameter(final_norm).detach(), {},
                      &top, gradients.into(final_norm), gradients.into(final_norm + 1));
  hidden_.reset();
  final_norm_ = {};
  for (int64_t layer = config.layers - 1; layer >= 0; --layer) {
    const BlockCall block = call(layer);
    BlockGrads into;
    for (int i = 0; i < kBlockTensors; ++i) {
      into[static_cast<size_t>(i)] =
          gradients.into(model_->block_parameter(layer, static_cast<BlockTensor>(i)));
    }
    // Taken out, so that each block's memory is free before the next one's turn.
    const at::Tensor x = std::move(inputs_.back());
    BlockActivations activations = std::move(activations_.back());
    inputs_.pop_back();
    activations_.pop_back();
    if (config.recompute) {
      activations = block_activations(block, x, block_norm(block, x), /*for_backward=*/true,
                                      std::move(activations.attention));
    }
    std::optional<Branch> below;
    if (layer > 0) below = branch_of(layer - 1);
    grads = block_grad(block, x, std::move(activations), std::move(grads), into,
                       below ? &*below : nullptr);
    if (gradients.layer_done) gradients.layer_done(layer);
  }
  std::vector<at::Tensor> tables(
      gradients.tensors.begin(),
      gradients.tensors.begin() + static_cast<std::ptrdiff_t>(model_->first_block));
  bool add = gradients.add;
  if (config.tied && !add) {  // the first table holds the output's gradient already
    for (size_t i = 1; i < tables.size(); ++i) tables[i].zero_();
    add = true;
  }
  embed_grad(grads.x, tokens_, model_->indices(tokens_.size(1)), tables, add);
}

}  // namespace lace::model
