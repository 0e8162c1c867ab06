#pragma once

#include <vector>

#include "lace/model.h"

#include "model/arena.h"
#include "model/block.h"
#include "model/dropout_keys.h"
#include "model/unchanged.h"

namespace lace {

// The parameters and what one pass is made of: what rooms above this one see of a model.
struct SparseTransformer::Impl {
  Impl(const ModelConfig& config, at::Device device);

  at::ScalarType compute() const;
  at::ScalarType residual() const;  // of the residual stream and its gradient
  at::Device device() const { return position_indices.device(); }

  // Places in arena.parameters().
  size_t block_parameter(int64_t layer, model::BlockTensor tensor) const;
  size_t final_norm() const;  // its weight; the bias is the next
  size_t output_weight() const;
  std::vector<at::Tensor> embedding_tables() const;

  // The rows of the position tables of the first n positions: int64 [parts, n].
  at::Tensor indices(int64_t n) const;

  // Block `layer` of a pass, its weights in the compute dtype as they are now. keys: as of
  // model::Pass.
  model::BlockCall block_call(int64_t layer, int64_t batch, int64_t n,
                              const at::Tensor& keys) const;
  // The mask of one branch of a pass.
  Dropout dropout(int64_t layer, model::DropoutBranch branch, const at::Tensor& keys) const;
  // The keys of a pass: int64 [layers, kDropoutBranches] on a CPU; undefined where nothing is
  // dropped.
  at::Tensor dropout_keys(const PassMode& mode) const;

  // LN(x) W_outᵀ with the products in wide, x residual [rows, d_model]: [rows, vocab].
  at::Tensor logits(const at::Tensor& x) const;

  // A copy of tokens as int64 [batch, n], contiguous. Throws unless they are as lace/model.h says.
  // from_host: a model on a GPU takes them from the CPU too.
  at::Tensor check_tokens(const at::Tensor& tokens, bool from_host = false) const;

  ModelConfig config;
  model::ParameterArena arena;
  std::vector<Pattern> patterns;  // of the layers, a cycle
  at::Tensor position_indices;    // int64 [parts, seq_len]
  model::Rotary rotary;
  size_t first_block = 0;  // index of the first block's first parameter
};

}  // namespace lace
