#pragma once

#include <tuple>
#include <utility>

#include <ATen/core/Tensor.h>

#include "lace/attention.h"

namespace lace::ops {

// Attention below autograd, for rooms that write their backward themselves. Arguments, checks and
// errors are those of lace::attention; no graph is made.

// Of q, k, v, and of the sinks (of no elements where there are none).
struct Gradients {
  at::Tensor q, k, v, sinks = {};
};

// What a loss gives backward: its gradients in out, and in lse (undefined: none).
struct LossGradients {
  at::Tensor out, lse = {};
};

// out and lse.
std::pair<at::Tensor, at::Tensor> attention_forward(const at::Tensor& q, const at::Tensor& k,
                                                    const at::Tensor& v, const Pattern& pattern,
                                                    const AttentionOptions& options);

// Writes the gradients into `grads`: q, k and v of those shapes and any strides but the innermost,
// which is 1: parts of a fused projection's gradient, for instance. That of sinks becomes a new
// tensor.
void attention_backward_into(Gradients& grads, const LossGradients& loss, const at::Tensor& q,
                             const at::Tensor& k, const at::Tensor& v, const at::Tensor& out,
                             const at::Tensor& lse, const Pattern& pattern,
                             const AttentionOptions& options);

// The same into new tensors.
Gradients attention_backward(const LossGradients& loss, const at::Tensor& q, const at::Tensor& k,
                             const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse,
                             const Pattern& pattern, const AttentionOptions& options);

}  // namespace lace::ops
