#pragma once

#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "kernels/elementwise/dropout.h"

namespace lace::model {

// The layers of a model and their gradients, without autograd. All matrices are [rows, columns],
// contiguous. `wide` stands for the dtype of parameters and sums (float32 or float64), `compute`
// for that of matrix products (bfloat16, float16, or as wide), `residual` for that of the residual
// stream and its gradient: wide or compute.
//
// What is not a matrix product runs the table of kernels/elementwise for the tensors' device.

// Where a gradient of a parameter goes: wide, contiguous.
struct Into {
  at::Tensor tensor;
  bool add = false;  // to what is there, instead of in its place
};

// y = (x − mean) · rstd · weight + bias
struct Norm {
  at::Tensor y;           // compute [rows, columns]
  at::Tensor mean, rstd;  // wide [rows]
};

Norm layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps,
                at::ScalarType compute);

// sum = x + dropout(branch), and its norm.
std::pair<at::Tensor, Norm> residual_norm(const at::Tensor& x, const at::Tensor& branch,
                                          const Dropout& dropout, const at::Tensor& weight,
                                          const at::Tensor& bias, double eps);

// x + dropout(branch)
at::Tensor residual(const at::Tensor& x, const at::Tensor& branch, const Dropout& dropout);

// The branch that residual_norm added, in backward.
struct Branch {
  Dropout dropout;
  Into sum;  // of its gradient over the rows: the gradient of its last bias
};

struct NormGrads {
  at::Tensor x;       // residual: `grad` + the gradient through the norm
  at::Tensor branch;  // compute; undefined where there was none
};

// The gradients of x and branch in residual_norm (or of x in layer_norm: no `branch`), where x is
// the sum that was normed, dy the gradient of norm.y, and `grad` that of x from elsewhere
// (undefined: 0); its memory may become the result's.
NormGrads layer_norm_grad(const at::Tensor& dy, const at::Tensor& x, const Norm& norm,
                          const at::Tensor& weight, const at::Tensor& grad, const Branch* branch,
                          const Into& weight_grad, const Into& bias_grad);

// x · σ(1.702 x)
at::Tensor quick_gelu(const at::Tensor& x);
// The gradient of x, in the memory of dy; its sums over the rows go into `sum`.
at::Tensor quick_gelu_grad(at::Tensor dy, const at::Tensor& x, const Into& sum);

// Rotates the first `heads` heads of head_dim columns of x [batch · n, width] in place: row r by
// the angles of position first_position + r mod n, or back (`inverse`: a gradient). cos, sin wide
// [>= first_position + n, head_dim / 2].
struct Rotation {
  at::Tensor cos, sin;
  int64_t heads = 0, head_dim = 0;
  int64_t n = 0, first_position = 0;
};
void rotate(const at::Tensor& x, const Rotation& rotation, bool inverse);

struct CrossEntropy {
  at::Tensor nats;  // wide [rows]
  at::Tensor lse;   // wide [rows]
};
// targets int64 [rows]
CrossEntropy cross_entropy(const at::Tensor& logits, const at::Tensor& targets);
// scale · factor · (softmax(logits) − onehot(targets)), in the memory of logits. factor: float64
// on the same device; undefined: 1.
at::Tensor cross_entropy_grad(at::Tensor logits, const at::Tensor& targets, const at::Tensor& lse,
                              double scale, const at::Tensor& factor);

// y = x weightᵀ + bias (bias may be undefined); weight [out, in]
at::Tensor linear_forward(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);
// dy weight
at::Tensor linear_grad_input(const at::Tensor& dy, const at::Tensor& weight);
// u = linear_forward(x, weight, bias) and quick_gelu(u), at once where that is faster; u undefined
// unless it is to be kept
std::pair<at::Tensor, at::Tensor> linear_gelu(const at::Tensor& x, const at::Tensor& weight,
                                              const at::Tensor& bias, bool keep_u);
// quick_gelu_grad(linear_grad_input(dy, weight), u, sum), at once where that is faster: then the
// product is not rounded in between
at::Tensor linear_grad_input_gelu(const at::Tensor& dy, const at::Tensor& weight,
                                  const at::Tensor& u, const Into& sum);
// dyᵀ x, with sums in wide
void linear_grad_weight(const at::Tensor& dy, const at::Tensor& x, const Into& weight_grad);
// The sums of x over its rows.
void column_sum(const at::Tensor& x, const Into& sum);

// linear_forward by oneDNN, float32 on a CPU: what the three take where MKL is slow.
at::Tensor onednn_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

// float32 for bfloat16, float16 and float32; float64 for float64.
at::ScalarType wide_type(at::ScalarType compute);

// Slot s of each sequence, in the dtype `residual` [batch · n, d]: sos for s = 0, else
// tok[tokens[s − 1]] + Σ_p pos_p[indices[p, s − 1]]. tokens int64 [batch, n]; indices int64
// [parts, n]; tables: tok, sos, pos….
at::Tensor embed(const at::Tensor& tokens, const at::Tensor& indices,
                 const std::vector<at::Tensor>& tables, at::ScalarType residual);
// The gradients of the tables, shaped as they are; all are added to what is there, or none.
void embed_grad(const at::Tensor& grad, const at::Tensor& tokens, const at::Tensor& indices,
                const std::vector<at::Tensor>& table_grads, bool add);

}  // namespace lace::model
