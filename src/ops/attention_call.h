#pragma once

#include <tuple>
#include <utility>

#include <ATen/core/Tensor.h>

#include "lace/attention.h"

namespace lace::ops {

// Attention below autograd, for rooms that write their backward themselves. Arguments, checks and
// errors are those of lace::attention; no graph is made.

using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;  // of q, k, v

// out and lse.
std::pair<at::Tensor, at::Tensor> attention_forward(const at::Tensor& q, const at::Tensor& k,
                                                    const at::Tensor& v, const Pattern& pattern,
                                                    const AttentionOptions& options);

// Writes the gradients into `grads`, tensors shaped as q, k and v of any strides but the innermost,
// which is 1: parts of a fused projection's gradient, for instance.
void attention_backward_into(const Gradients& grads, const at::Tensor& dout, const at::Tensor& q,
                             const at::Tensor& k, const at::Tensor& v, const at::Tensor& out,
                             const at::Tensor& lse, const Pattern& pattern,
                             const AttentionOptions& options);

// The same into new tensors.
Gradients attention_backward(const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k,
                             const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse,
                             const Pattern& pattern, const AttentionOptions& options);

}  // namespace lace::ops
