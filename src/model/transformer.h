#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "lace/model.h"

#include "model/block.h"
#include "model/head.h"
#include "model/unchanged.h"

namespace lace {

// The parameters, their copies in the compute dtype, and what one pass is made of.
struct SparseTransformer::Impl {
  Impl(const ModelConfig& config, at::Device device);

  at::ScalarType compute() const;
  at::ScalarType wide() const;

  const at::Tensor& parameter(size_t index) const { return parameters[index].tensor; }
  std::vector<NamedParameter> embedding_tables() const;
  std::vector<NamedParameter> block_parameters(int64_t layer) const;

  // Block `layer` of a pass, its weights in the compute dtype as they are now.
  model::BlockCall block_call(int64_t layer, int64_t batch, int64_t n, const PassMode& mode) const;
  model::Head head() const;
  // The parameter in the compute dtype, cast anew only if it has changed.
  at::Tensor compute_copy(size_t index) const;

  // A copy of tokens as int64 [batch, n], contiguous. Throws unless they are as lace/model.h says.
  at::Tensor check_tokens(const at::Tensor& tokens) const;
  // H_N [batch · n, d_model] of checked tokens.
  at::Tensor hidden(const at::Tensor& tokens, const PassMode& mode) const;

  ModelConfig config;
  std::vector<NamedParameter> parameters;
  std::vector<Pattern> patterns;  // of the layers, a cycle
  at::Tensor position_indices;    // int64 [parts, seq_len]
  size_t first_block = 0;         // index of the first block's first parameter

  struct Copy {
    at::Tensor tensor;
    int64_t version = -1;
  };
  mutable std::vector<Copy> copies;  // by parameter
};

}  // namespace lace
