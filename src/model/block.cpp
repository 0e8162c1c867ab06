#include "model/block.h"

#include <optional>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/attention_call.h"
#include "ops/torch_context.h"

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

// float16 attention is the GPU's; a CPU computes it in float32.
at::Tensor attention_input(const at::Tensor& x) {
  return x.is_cpu() && x.scalar_type() == at::kHalf ? x.to(at::kFloat) : x;
}

AttentionOptions attention_options(const BlockCall& call) {
  AttentionOptions options;
  options.deterministic = call.shape.deterministic;
  return options;
}

}  // namespace

AttentionState attend(const BlockCall& call, const at::Tensor& qkv) {
  const Qkv parts = split_qkv(call.shape, attention_input(qkv));
  AttentionState state;
  std::tie(state.out, state.lse) =
      ops::attention_forward(parts.q, parts.k, parts.v, call.pattern, attention_options(call));
  const int64_t width = call.shape.heads * call.shape.v_head_dim;
  state.rows = state.out.transpose(1, 2).reshape({qkv.size(0), width}).to(qkv.scalar_type());
  return state;
}

at::Tensor attend_grad(const BlockCall& call, const at::Tensor& qkv, const AttentionState& state,
                       const at::Tensor& drows) {
  const BlockShape& shape = call.shape;
  const at::Tensor input = attention_input(qkv);
  const at::Tensor dout = drows.view({shape.batch, shape.n, shape.heads, shape.v_head_dim})
                              .transpose(1, 2)
                              .to(input.scalar_type());
  const Qkv parts = split_qkv(shape, input);
  const at::Tensor dqkv = at::empty_like(input);
  const Qkv grads = split_qkv(shape, dqkv);
  ops::attention_backward_into({grads.q, grads.k, grads.v}, dout, parts.q, parts.k, parts.v,
                               state.out, state.lse, call.pattern, attention_options(call));
  return dqkv.to(qkv.scalar_type());
}

namespace {

// From attention's output in `a` to the feed-forward's activations.
void run_feed_forward(const BlockCall& call, const at::Tensor& x, BlockActivations& a) {
  const auto& w = call.weights;
  const at::Tensor branch = linear_forward(a.attention.rows, w[kProjWeight], w[kProjBias]);
  std::tie(a.r, a.norm2) = residual_norm(x, branch, call.attention_dropout, w[kNorm2Weight],
                                         w[kNorm2Bias], call.shape.eps);
  a.ff_in = linear_forward(a.norm2.y, w[kFf1Weight], w[kFf1Bias]);
  a.ff_out = quick_gelu(a.ff_in);
}

}  // namespace

BlockActivations block_activations(const BlockCall& call, const at::Tensor& x) {
  const auto& w = call.weights;
  BlockActivations a;
  a.norm1 = layer_norm(x, w[kNorm1Weight], w[kNorm1Bias], call.shape.eps, call.compute());
  a.qkv = linear_forward(a.norm1.y, w[kQkvWeight], w[kQkvBias]);
  a.attention = attend(call, a.qkv);
  run_feed_forward(call, x, a);
  return a;
}

at::Tensor block_rest(const BlockCall& call, const at::Tensor& x, const at::Tensor& attention) {
  BlockActivations a;
  a.attention.rows = attention;
  run_feed_forward(call, x, a);
  return block_output(call, a);
}

at::Tensor block_output(const BlockCall& call, const BlockActivations& activations) {
  const at::Tensor branch =
      linear_forward(activations.ff_out, call.weights[kFf2Weight], call.weights[kFf2Bias]);
  return residual(activations.r, branch, call.ff_dropout);
}

BlockGrads block_grad(const BlockCall& call, const at::Tensor& x, BlockActivations a,
                      const at::Tensor& grad) {
  const auto& w = call.weights;
  BlockGrads grads;
  auto& d = grads.weights;

  GradAndSum ff = branch_grad(grad, call.ff_dropout, call.compute());
  d[kFf2Weight] = linear_grad_weight(ff.grad, a.ff_out);
  d[kFf2Bias] = ff.sum;
  a.ff_out.reset();
  ff = quick_gelu_grad(linear_grad_input(ff.grad, w[kFf2Weight]), a.ff_in);
  a.ff_in.reset();
  d[kFf1Weight] = linear_grad_weight(ff.grad, a.norm2.y);
  d[kFf1Bias] = ff.sum;
  NormGrads norm = layer_norm_grad(linear_grad_input(ff.grad, w[kFf1Weight]), a.r, a.norm2,
                                   w[kNorm2Weight], grad);
  ff = {};
  a.norm2 = {};
  d[kNorm2Weight] = norm.weight;
  d[kNorm2Bias] = norm.bias;
  const at::Tensor dr = norm.x;

  GradAndSum branch = branch_grad(dr, call.attention_dropout, call.compute());
  d[kProjWeight] = linear_grad_weight(branch.grad, a.attention.rows);
  d[kProjBias] = branch.sum;
  const at::Tensor dqkv =
      attend_grad(call, a.qkv, a.attention, linear_grad_input(branch.grad, w[kProjWeight]));
  branch = {};
  a.attention = {};
  d[kQkvWeight] = linear_grad_weight(dqkv, a.norm1.y);
  d[kQkvBias] = row_sum(dqkv);
  norm = layer_norm_grad(linear_grad_input(dqkv, w[kQkvWeight]), x, a.norm1, w[kNorm1Weight], dr);
  d[kNorm1Weight] = norm.weight;
  d[kNorm1Bias] = norm.bias;
  grads.x = norm.x;
  return grads;
}

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// A block on its way from forward to backward.
struct BlockTape final : torch::CustomClassHolder {
  BlockTape(BlockCall call, const std::vector<NamedParameter>& parameters)
      : call(std::move(call)), parameters(parameters) {}
  std::optional<BlockCall> call;  // gone after backward
  Unchanged parameters;
  at::Tensor x;
  std::optional<BlockActivations> activations;  // none: to be computed again
  bool recompute = false;
};
using TapePointer = c10::intrusive_ptr<BlockTape>;

class BlockFunction : public torch::autograd::Function<BlockFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x,
                            at::TensorList parameters, const TapePointer& tape) {
    static_cast<void>(parameters);
    BlockActivations activations = block_activations(*tape->call, x);
    const at::Tensor out = block_output(*tape->call, activations);
    tape->x = x.detach();
    if (!tape->recompute) tape->activations = std::move(activations);
    context->saved_data["tape"] = c10::IValue::make_capsule(tape);
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const ops::OwnThreads threads;
    const auto tape =
        c10::static_intrusive_pointer_cast<BlockTape>(context->saved_data["tape"].toCapsule());
    LACE_CHECK(tape->call.has_value(), "[model] backward runs once over a loss, got a second run");
    tape->parameters.check(kUntilBackward);
    // Taken out of the tape, so that each block's memory is free before the next one's turn.
    const BlockCall call = *std::exchange(tape->call, std::nullopt);
    const at::Tensor x = std::exchange(tape->x, {});
    std::optional<BlockActivations> kept = std::exchange(tape->activations, std::nullopt);
    BlockActivations activations =
        kept ? *std::exchange(kept, std::nullopt) : block_activations(call, x);
    BlockGrads result = block_grad(call, x, std::move(activations), grads[0].contiguous());
    variable_list list{result.x};
    list.insert(list.end(), result.weights.begin(), result.weights.end());
    list.emplace_back();  // of the tape
    return list;
  }
};

}  // namespace

at::Tensor block(const at::Tensor& x, const std::vector<NamedParameter>& parameters, BlockCall call,
                 bool recompute) {
  if (!at::GradMode::is_enabled()) {
    return block_output(call, block_activations(call, x));
  }
  const auto tape = c10::make_intrusive<BlockTape>(std::move(call), parameters);
  tape->recompute = recompute;
  return BlockFunction::apply(x, at::TensorList(tensors_of(parameters)), tape);
}

}  // namespace lace::model
