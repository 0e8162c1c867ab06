#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "lace/model.h"

namespace lace::model {

// The two ends of the model as nodes of autograd, whose backward throws if a parameter has changed
// since.

// H₀ [batch · n, d_model]; arguments as those of embed (layers.h), gradients for `tables`.
at::Tensor embedding(const at::Tensor& tokens, const at::Tensor& indices,
                     const std::vector<NamedParameter>& tables);

// The parameters of the output, and W_out's copy in the compute dtype.
struct Head {
  NamedParameter norm_weight, norm_bias, weight;
  at::Tensor compute_weight;
  double eps = 1e-6;
};

// Mean of −log softmax(LN(x) W_outᵀ)[target] over the rows of x; targets int64 [rows].
at::Tensor head_loss(const at::Tensor& x, const at::Tensor& targets, const Head& head);

// LN(x) W_outᵀ with the products in wide: [rows, vocab].
at::Tensor head_logits(const at::Tensor& x, const Head& head);

}  // namespace lace::model
