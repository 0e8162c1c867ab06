#include "model/block.h"

#include <ATen/ATen.h>

#include "ops/attention_call.h"

namespace lace::model {

Qkv split_qkv(const BlockShape& shape, const at::Tensor& projection) {
  const int64_t n = projection.size(0) / shape.batch;
  const at::Tensor rows = projection.view({shape.batch, n, projection.size(1)});
  int64_t begin = 0;
  const auto part = [&](int64_t heads, int64_t head_dim) {
    const at::Tensor columns = rows.narrow(2, begin, heads * head_dim);
    begin += heads * head_dim;
    return columns.view({shape.batch, n, heads, head_dim}).transpose(1, 2);
  };
  Qkv qkv;
  qkv.q = part(shape.heads, shape.qk_head_dim);
  qkv.k = part(shape.kv_heads, shape.qk_head_dim);
  qkv.v = part(shape.kv_heads, shape.v_head_dim);
  return qkv;
}

namespace {

AttentionOptions attention_options(const BlockCall& call) {
  AttentionOptions options;
  options.deterministic = call.shape.deterministic;
  return options;
}

// Rotates q and k of a fused projection, or, `inverse`, their gradients back.
void rotate_qk(const BlockShape& shape, const at::Tensor& projection, bool inverse) {
  if (!shape.rotary.cos.defined()) return;
  rotate(projection,
         {shape.rotary.cos, shape.rotary.sin, shape.heads + shape.kv_heads, shape.qk_head_dim,
          shape.n},
         inverse);
}

AttentionState attend(const BlockCall& call, const at::Tensor& qkv) {
  const Qkv parts = split_qkv(call.shape, qkv);
  AttentionState state;
  std::tie(state.out, state.lse) =
      ops::attention_forward(parts.q, parts.k, parts.v, call.pattern, attention_options(call));
  state.rows =
      state.out.transpose(1, 2).reshape({qkv.size(0), call.shape.heads * call.shape.v_head_dim});
  return state;
}

// The gradient of the fused projection before rotation, given that of `rows`.
at::Tensor attend_grad(const BlockCall& call, const at::Tensor& qkv, const AttentionState& state,
                       const at::Tensor& drows) {
  const BlockShape& shape = call.shape;
  const at::Tensor dout =
      drows.view({shape.batch, shape.n, shape.heads, shape.v_head_dim}).transpose(1, 2);
  const Qkv parts = split_qkv(shape, qkv);
  const at::Tensor dqkv = at::empty_like(qkv);
  const Qkv grads = split_qkv(shape, dqkv);
  ops::Gradients written{grads.q, grads.k, grads.v};
  ops::attention_backward_into(written, {dout}, parts.q, parts.k, parts.v, state.out, state.lse,
                               call.pattern, attention_options(call));
  rotate_qk(shape, dqkv, /*inverse=*/true);
  return dqkv;
}

// From attention's output in `a` to the feed-forward's activations.
void run_feed_forward(const BlockCall& call, const at::Tensor& x, BlockActivations& a,
                      bool for_backward) {
  const auto& w = call.weights;
  const at::Tensor branch = linear_forward(a.attention.rows, w[kProjWeight], w[kProjBias]);
  std::tie(a.r, a.norm2) = residual_norm(x, branch, call.attention_dropout, w[kNorm2Weight],
                                         w[kNorm2Bias], call.shape.eps);
  std::tie(a.ff_in, a.ff_out) = linear_gelu(a.norm2.y, w[kFf1Weight], w[kFf1Bias], for_backward);
}

}  // namespace

Norm block_norm(const BlockCall& call, const at::Tensor& x) {
  return layer_norm(x, call.weights[kNorm1Weight], call.weights[kNorm1Bias], call.shape.eps,
                    call.compute());
}

at::Tensor block_qkv(const BlockCall& call, const Norm& norm1) {
  const at::Tensor qkv = linear_forward(norm1.y, call.weights[kQkvWeight], call.weights[kQkvBias]);
  rotate_qk(call.shape, qkv, /*inverse=*/false);
  return qkv;
}

BlockActivations block_activations(const BlockCall& call, const at::Tensor& x, const Norm& norm1,
                                   bool for_backward, AttentionState attention) {
  BlockActivations a;
  a.norm1 = norm1;
  a.qkv = block_qkv(call, norm1);
  a.attention = attention.rows.defined() ? std::move(attention) : attend(call, a.qkv);
  run_feed_forward(call, x, a, for_backward);
  return a;
}

at::Tensor block_branch(const BlockCall& call, const BlockActivations& activations) {
  return linear_forward(activations.ff_out, call.weights[kFf2Weight], call.weights[kFf2Bias]);
}

at::Tensor block_rest(const BlockCall& call, const at::Tensor& x, const at::Tensor& attention) {
  BlockActivations a;
  a.attention.rows = attention;
  run_feed_forward(call, x, a, /*for_backward=*/false);
  return residual(a.r, block_branch(call, a), call.ff_dropout);
}

NormGrads block_grad(const BlockCall& call, const at::Tensor& x, BlockActivations a,
                     NormGrads grads, const BlockGrads& into, const Branch* below) {
  const auto& w = call.weights;
  linear_grad_weight(grads.branch, a.ff_out, into[kFf2Weight]);
  a.ff_out.reset();
  at::Tensor dff = linear_grad_input_gelu(grads.branch, w[kFf2Weight], a.ff_in, into[kFf1Bias]);
  a.ff_in.reset();
  linear_grad_weight(dff, a.norm2.y, into[kFf1Weight]);
  at::Tensor dy = linear_grad_input(dff, w[kFf1Weight]);
  dff.reset();
  const Branch attention_branch{call.attention_dropout, into[kProjBias]};
  grads = layer_norm_grad(dy, a.r, a.norm2, w[kNorm2Weight], grads.x, &attention_branch,
                          into[kNorm2Weight], into[kNorm2Bias]);
  a.norm2 = {};

  linear_grad_weight(grads.branch, a.attention.rows, into[kProjWeight]);
  const at::Tensor dqkv =
      attend_grad(call, a.qkv, a.attention, linear_grad_input(grads.branch, w[kProjWeight]));
  a.attention = {};
  linear_grad_weight(dqkv, a.norm1.y, into[kQkvWeight]);
  column_sum(dqkv, into[kQkvBias]);
  dy = linear_grad_input(dqkv, w[kQkvWeight]);
  return layer_norm_grad(dy, x, a.norm1, w[kNorm1Weight], grads.x, below, into[kNorm1Weight],
                         into[kNorm1Bias]);
}

}  // namespace lace::model
