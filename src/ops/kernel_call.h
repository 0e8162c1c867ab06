#pragma once

#include <utility>

#include <ATen/core/Tensor.h>

#include "kernels/kernel.h"
#include "ops/attention_arguments.h"
#include "ops/attention_call.h"

namespace lace::ops {

// A call of one kernel: the plans, the results' memory, tensors as the kernel takes them (head_dims
// that it has none for filled up with zeros, as kernels/kernel.h has it, and results cut), and
// sinks. Of tensors with a batch, on the current device; `arguments` are what check_attention made
// of them.

// out and lse.
std::pair<at::Tensor, at::Tensor> run_forward(const Kernel& kernel,
                                              const AttentionArguments& arguments,
                                              const at::Tensor& q, const at::Tensor& k,
                                              const at::Tensor& v, const Pattern& pattern,
                                              const AttentionOptions& options);

// Writes grads.q, k and v, of any strides but the innermost, and sets grads.sinks where there are.
void run_backward(const Kernel& kernel, const AttentionArguments& arguments, Gradients& grads,
                  const LossGradients& loss, const at::Tensor& q, const at::Tensor& k,
                  const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse,
                  const Pattern& pattern, const AttentionOptions& options);

}  // namespace lace::ops
