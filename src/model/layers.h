#pragma once

#include <ATen/core/Tensor.h>

#include "model/dropout.h"

namespace lace::model {

// The layers of a block and their gradients, without autograd. All matrices are [rows, columns],
// contiguous. `wide` stands for the dtype of parameters, residual stream and sums (float32 or
// float64), `compute` for that of matrix products (bfloat16, float16, or as wide).
//
// float32 and bfloat16 on a CPU run the fused loops of elementwise.h; everything else, GPUs
// included, libtorch's operations. Both compute the same, and sums over rows do not depend on the
// number of threads.

// y = (x − mean) · rstd · weight + bias
struct Norm {
  at::Tensor y;           // compute [rows, columns]
  at::Tensor mean, rstd;  // wide [rows]
};

struct NormGrads {
  at::Tensor x;             // wide [rows, columns]
  at::Tensor weight, bias;  // wide [columns]
};

struct GradAndSum {
  at::Tensor grad;  // compute [rows, columns]
  at::Tensor sum;   // wide [columns], over the rows
};

Norm layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps,
                at::ScalarType compute);

// sum = x + dropout(branch), and its norm.
std::pair<at::Tensor, Norm> residual_norm(const at::Tensor& x, const at::Tensor& branch,
                                          const Dropout& dropout, const at::Tensor& weight,
                                          const at::Tensor& bias, double eps);

// x + dropout(branch)
at::Tensor residual(const at::Tensor& x, const at::Tensor& branch, const Dropout& dropout);

// The gradient of `branch` in residual, given that of the sum.
GradAndSum branch_grad(const at::Tensor& grad, const Dropout& dropout, at::ScalarType compute);

// NormGrads.x = grad + the gradient through the norm of x, where dy is that of norm.y.
NormGrads layer_norm_grad(const at::Tensor& dy, const at::Tensor& x, const Norm& norm,
                          const at::Tensor& weight, const at::Tensor& grad);

// x · σ(1.702 x)
at::Tensor quick_gelu(const at::Tensor& x);
GradAndSum quick_gelu_grad(const at::Tensor& dy, const at::Tensor& x);

// Over the rows, in wide.
at::Tensor row_sum(const at::Tensor& x);

struct CrossEntropy {
  at::Tensor nats;  // wide [rows]
  at::Tensor lse;   // wide [rows]
};
// targets int64 [rows]
CrossEntropy cross_entropy(const at::Tensor& logits, const at::Tensor& targets);
// scale · (softmax(logits) − onehot(targets)), in the dtype of logits.
at::Tensor cross_entropy_grad(const at::Tensor& logits, const at::Tensor& targets,
                              const at::Tensor& lse, double scale);

// y = x weightᵀ + bias (bias may be undefined); weight [out, in]
at::Tensor linear_forward(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);
// dy weight
at::Tensor linear_grad_input(const at::Tensor& dy, const at::Tensor& weight);
// dyᵀ x, in wide
at::Tensor linear_grad_weight(const at::Tensor& dy, const at::Tensor& x);

// linear_forward by oneDNN, float32 on a CPU: what the three take where MKL is slow.
at::Tensor onednn_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

// float32 for bfloat16, float16 and float32; float64 for float64.
at::ScalarType wide_type(at::ScalarType compute);

// Slot s of each sequence [batch · n, d]: sos for s = 0, else tok[tokens[s − 1]] +
// Σ_p pos_p[indices[p, s − 1]]. tokens int64 [batch, n]; indices int64 [parts, n];
// tables: tok, sos, pos….
at::Tensor embed(const at::Tensor& tokens, const at::Tensor& indices,
                 const std::vector<at::Tensor>& tables);
// The gradients of the tables.
std::vector<at::Tensor> embed_grad(const at::Tensor& grad, const at::Tensor& tokens,
                                   const at::Tensor& indices,
                                   const std::vector<at::Tensor>& tables);

}  // namespace lace::model
