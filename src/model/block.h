#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "lace/pattern.h"

#include "model/layers.h"
#include "model/unchanged.h"

namespace lace::model {

// One residual block, forward and backward, written out without autograd:
//   r = x + dropout(attention(LN₁(x))),  out = r + dropout(ff(LN₂(r)))
// x, r and out are wide [batch · n, d_model]; what stands between them is in the compute dtype.

// A block's tensors, in the order of parameter_infos.
enum BlockTensor {
  kNorm1Weight,
  kNorm1Bias,
  kQkvWeight,
  kQkvBias,
  kProjWeight,
  kProjBias,
  kNorm2Weight,
  kNorm2Bias,
  kFf1Weight,
  kFf1Bias,
  kFf2Weight,
  kFf2Bias,
  kBlockTensors
};

// What all blocks of one pass share.
struct BlockShape {
  int64_t batch = 0, n = 0;
  int64_t heads = 0, kv_heads = 0, qk_head_dim = 0, v_head_dim = 0;
  double eps = 1e-5;
  bool deterministic = false;
};

// One block of one pass.
struct BlockCall {
  BlockShape shape;
  Pattern pattern;
  Dropout attention_dropout, ff_dropout;
  // Norms wide, linear layers in the compute dtype.
  std::array<at::Tensor, kBlockTensors> weights;

  at::ScalarType compute() const { return weights[kQkvWeight].scalar_type(); }
};

// q, k and v as views of a fused projection [batch · n, width]: [batch, heads, n, head_dim].
struct Qkv {
  at::Tensor q, k, v;
};
Qkv split_qkv(const BlockShape& shape, const at::Tensor& projection);

// Attention over a fused projection, and what its gradient needs of it.
struct AttentionState {
  at::Tensor rows;      // compute [batch · n, heads · v_head_dim]
  at::Tensor out, lse;  // as lace::attention gives them
};
AttentionState attend(const BlockCall& call, const at::Tensor& qkv);
// The gradient of the fused projection, given that of `rows`.
at::Tensor attend_grad(const BlockCall& call, const at::Tensor& qkv, const AttentionState& state,
                       const at::Tensor& drows);

// What backward needs of a block beside its input.
struct BlockActivations {
  Norm norm1;
  at::Tensor qkv;
  AttentionState attention;
  at::Tensor r;
  Norm norm2;
  at::Tensor ff_in, ff_out;  // of the activation function
};

struct BlockGrads {
  at::Tensor x;
  std::array<at::Tensor, kBlockTensors> weights;  // wide
};

// Everything up to the activation function, all that backward needs.
BlockActivations block_activations(const BlockCall& call, const at::Tensor& x);
// The block's output from there.
at::Tensor block_output(const BlockCall& call, const BlockActivations& activations);

// The block's output given that of attention, compute [batch · n, heads · v_head_dim].
at::Tensor block_rest(const BlockCall& call, const at::Tensor& x, const at::Tensor& attention);

BlockGrads block_grad(const BlockCall& call, const at::Tensor& x, BlockActivations activations,
                      const at::Tensor& grad);

// out as a node of autograd. `parameters` (kBlockTensors) get the gradients; `call.weights` are
// their copies or share their memory: backward throws if a parameter has changed since. recompute:
// only x is kept, and backward computes the activations again.
at::Tensor block(const at::Tensor& x, const std::vector<NamedParameter>& parameters, BlockCall call,
                 bool recompute);

}  // namespace lace::model
