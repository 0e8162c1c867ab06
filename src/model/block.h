#pragma once

#include <array>
#include <cstdint>

#include <ATen/core/Tensor.h>

#include "lace/pattern.h"

#include "model/layers.h"
#include "model/rotary.h"

namespace lace::model {

// One residual block, forward and backward, written out without autograd:
//   r = x + dropout(attention(LN₁(x))),  out = r + dropout(ff(LN₂(r)))
// x, r and out are residual [batch · n, d_model]; what stands between them is in the compute dtype.
// A block begins behind its first norm and ends before its last sum, since the sum and the norm of
// the block above are one pass over memory; so are their gradients.

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
  Rotary rotary;  // undefined: q and k stay as they are
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

using BlockGrads = std::array<Into, kBlockTensors>;

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

// What backward needs of a block beside its input.
struct BlockActivations {
  Norm norm1;
  at::Tensor qkv;
  AttentionState attention;
  at::Tensor r;
  Norm norm2;
  at::Tensor ff_in, ff_out;  // of the activation function; ff_in for backward alone
};

// LN₁(x): how a block begins where nothing is added to x at the same time.
Norm block_norm(const BlockCall& call, const at::Tensor& x);

// The fused projection of `norm`, q and k rotated: compute [batch · n, width].
at::Tensor block_qkv(const BlockCall& call, const Norm& norm1);

// From the input and its norm to the activation function's output; `for_backward`, all that
// backward needs. `attention`: the block's, where it is known already.
BlockActivations block_activations(const BlockCall& call, const at::Tensor& x, const Norm& norm1,
                                   bool for_backward, AttentionState attention = {});

// The second branch before its dropout, what r still lacks: compute [batch · n, d_model].
at::Tensor block_branch(const BlockCall& call, const BlockActivations& activations);

// The block's output given that of attention, compute [batch · n, heads · v_head_dim].
at::Tensor block_rest(const BlockCall& call, const at::Tensor& x, const at::Tensor& attention);

// The gradients of x and of the branch that was added to it (`below`, null for the first block),
// given those of the output and of its own second branch. Writes those of its parameters but the
// last bias, which came with `grads.branch`. The memory of `grads` is used.
NormGrads block_grad(const BlockCall& call, const at::Tensor& x, BlockActivations activations,
                     NormGrads grads, const BlockGrads& into, const Branch* below);

}  // namespace lace::model
