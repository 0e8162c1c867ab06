#include "ops/attention_call.h"

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>

#include "lace/error.h"

#include "kernels/kernel.h"
#include "ops/attention_arguments.h"
#include "ops/report_kernel.h"
#include "ops/sequences.h"
#include "ops/sinks.h"
#include "ops/torch_context.h"
#include "plan/plan.h"

namespace lace::ops {

namespace {

std::shared_ptr<const Plan> plan_for(const AttentionArguments& arguments, const Pattern& pattern,
                                     TileShape tile, bool transposed) {
  LACE_CHECK(!arguments.shape.sequences || !pattern.depends_on_length(),
             "[attention] a pattern that counts from the end of the keys has no meaning for "
             "sequences of several lengths, got ",
             pattern.to_string());
  return cached_plan(pattern, arguments.shape.heads, arguments.plan_q_len, arguments.plan_k_len,
                     tile, transposed);
}

std::shared_ptr<const Plan> forward_plan(const Kernel& kernel, const AttentionArguments& arguments,
                                         const Pattern& pattern) {
  const AttentionShape& shape = arguments.shape;
  const TileShape tile = kernel.tiles(shape).forward;
  auto plan = plan_for(arguments, pattern, tile, false);
  if (kernel.best_forward_tile == nullptr) return plan;
  const TileShape best = kernel.best_forward_tile(shape, *plan);
  if (best == tile) return plan;
  auto better = plan_for(arguments, pattern, best, false);
  return kernel.best_forward_tile(shape, *better) == best ? better : plan;
}

// Packed tensors [rows, heads, head_dim] are worked on as [1, heads, rows, head_dim].
bool is_packed(const at::Tensor& q, const AttentionOptions& options) {
  return options.sequences.defined() && q.defined() && q.dim() == 3;
}
at::Tensor with_batch(const char* name, const at::Tensor& tensor, bool packed) {
  if (!packed || !tensor.defined()) return tensor;
  LACE_CHECK(tensor.dim() == 3, "[attention] ", name,
             " must have the shape [rows, heads, head_dim], as q has, got ", tensor.sizes());
  return tensor.transpose(0, 1).unsqueeze(0);
}
at::Tensor without_batch(const at::Tensor& tensor, bool packed) {
  return packed ? tensor.squeeze(0).transpose(0, 1) : tensor;
}

// q, k and v as a kernel takes them; it must outlive the call.
struct InputRows {
  at::Tensor q, k, v;

  InputRows(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v)
      : q(with_contiguous_rows(q)), k(with_contiguous_rows(k)), v(with_contiguous_rows(v)) {}

  // Args: ForwardArgs or BackwardArgs.
  template <typename Args>
  Args args(const AttentionArguments& arguments, const AttentionOptions& options) const {
    const bool packed = arguments.shape.packed;
    Args args;
    args.shape = arguments.shape;
    args.sequences = sequences_of(options.sequences);
    args.scale = arguments.scale;
    args.q = to_tensor4(q, packed);
    args.k = to_tensor4(k, packed);
    args.v = to_tensor4(v, packed);
    return args;
  }
};

// Zeros as `sinks`, of no elements if there are none.
at::Tensor zeros_for(const at::Tensor& sinks, const at::Tensor& q) {
  return sinks.defined() ? at::zeros_like(sinks) : at::empty({0}, q.options());
}

// Of tensors with a batch, as all below.
std::pair<at::Tensor, at::Tensor> forward(const at::Tensor& q, const at::Tensor& k,
                                          const at::Tensor& v, const Pattern& pattern,
                                          const AttentionOptions& options, bool packed) {
  const AttentionArguments arguments = check_attention("attention", q, k, v, options, packed);
  const AttentionShape& shape = arguments.shape;
  const c10::DeviceGuard device(q.device());
  std::string passed_over;
  const Kernel& kernel = select_kernel(shape, &passed_over);
  report_kernel(shape, kernel, passed_over);
  const auto plan = forward_plan(kernel, arguments, pattern);
  const int64_t batch = shape.batch_in_memory();
  at::Tensor out = empty_result(q, batch, shape.heads, shape.q_len, shape.v_dim);
  at::Tensor lse =
      at::empty({batch, shape.heads, shape.q_len}, q.options().dtype(lse_type(q.scalar_type())));
  if (shape.sequences) {
    out.zero_();
    lse.fill_(options.sinks.defined() ? kNoRow : -kNoRow);
  }
  const InputRows rows(q, k, v);
  auto args = rows.args<ForwardArgs>(arguments, options);
  args.out = to_tensor4(out, packed);
  args.lse = lse.data_ptr();
  if (shape.batch > 0) {
    kernel.forward(make_torch_context(q.device(), options.deterministic), *plan, args);
  }
  if (options.sinks.defined()) join_sinks(out, lse, options.sinks);
  return {out, lse};
}

void backward(Gradients& grads, const LossGradients& loss, const at::Tensor& q, const at::Tensor& k,
              const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse,
              const Pattern& pattern, const AttentionOptions& options, bool packed) {
  const AttentionArguments arguments =
      check_attention("attention_backward", q, k, v, options, packed);
  check_attention_backward(arguments, loss.out, out, lse, loss.lse);
  const at::Tensor &dq = grads.q, &dk = grads.k, &dv = grads.v;
  const AttentionShape& shape = arguments.shape;
  const c10::DeviceGuard device(q.device());
  const Kernel& kernel = select_kernel(shape);
  const KernelTiles tiles = kernel.tiles(shape);
  const auto plan = plan_for(arguments, pattern, tiles.forward, false);
  const auto transposed = plan_for(arguments, pattern, tiles.transposed, true);
  if (shape.sequences) {
    for (const at::Tensor& gradient : {dq, dk, dv}) gradient.zero_();
  }
  if (shape.batch == 0) return;
  const InputRows rows(q, k, v);
  const bool on_cpu = shape.device == Device::kCpu;
  LACE_CHECK(
      on_cpu || !shape.aligned || (is_aligned(dq) && is_aligned(dk) && is_aligned(dv)),
      "[attention_backward] gradients must begin at multiples of 16 bytes, with strides that "
      "are positive multiples of them, where q, k and v do");
  const at::Tensor out_rows = on_cpu ? with_contiguous_rows(out) : with_aligned_rows(out);
  const at::Tensor dout_rows =
      on_cpu ? with_contiguous_rows(loss.out) : with_aligned_rows(loss.out);
  const at::Tensor dlse = loss.lse.defined() ? loss.lse.contiguous() : at::Tensor();
  const at::Tensor delta = options.sinks.defined() ? at::empty_like(lse) : at::Tensor();
  auto args = rows.args<BackwardArgs>(arguments, options);
  args.out = to_tensor4(out_rows, packed);
  args.dout = to_tensor4(dout_rows, packed);
  args.dq = to_tensor4(dq, packed);
  args.dk = to_tensor4(dk, packed);
  args.dv = to_tensor4(dv, packed);
  args.lse = lse.data_ptr();
  if (dlse.defined()) args.dlse = dlse.data_ptr();
  if (delta.defined()) args.delta = delta.data_ptr();
  kernel.backward(make_torch_context(q.device(), options.deterministic), *plan, *transposed, args);
  if (delta.defined()) grads.sinks = sinks_gradient(delta, lse, options.sinks);
}

}  // namespace

std::pair<at::Tensor, at::Tensor> attention_forward(const at::Tensor& q, const at::Tensor& k,
                                                    const at::Tensor& v, const Pattern& pattern,
                                                    const AttentionOptions& options) {
  const bool packed = is_packed(q, options);
  const at::Tensor q4 = with_batch("q", q, packed), k4 = with_batch("k", k, packed);
  const auto [out, lse] = forward(q4, k4, with_batch("v", v, packed), pattern, options, packed);
  return {without_batch(out, packed), packed ? lse.squeeze(0) : lse};
}

void attention_backward_into(Gradients& grads, const LossGradients& loss, const at::Tensor& q,
                             const at::Tensor& k, const at::Tensor& v, const at::Tensor& out,
                             const at::Tensor& lse, const Pattern& pattern,
                             const AttentionOptions& options) {
  const bool packed = is_packed(q, options);
  if (!packed) return backward(grads, loss, q, k, v, out, lse, pattern, options, false);
  const at::Tensor dlse = loss.lse.defined() ? loss.lse.unsqueeze(0) : at::Tensor();
  Gradients with{with_batch("dq", grads.q, true), with_batch("dk", grads.k, true),
                 with_batch("dv", grads.v, true)};
  backward(with, {with_batch("dout", loss.out, true), dlse}, with_batch("q", q, true),
           with_batch("k", k, true), with_batch("v", v, true), with_batch("out", out, true),
           lse.unsqueeze(0), pattern, options, true);
  if (with.sinks.defined()) grads.sinks = with.sinks;
}

Gradients attention_backward(const LossGradients& loss, const at::Tensor& q, const at::Tensor& k,
                             const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse,
                             const Pattern& pattern, const AttentionOptions& options) {
  const bool packed = is_packed(q, options);
  const auto like = [&](const at::Tensor& tensor) {
    const at::Tensor t = with_batch("k or v", tensor, packed);
    return without_batch(empty_result(t, t.size(0), t.size(1), t.size(2), t.size(3)), packed);
  };
  check_attention("attention_backward", with_batch("q", q, packed), with_batch("k", k, packed),
                  with_batch("v", v, packed), options, packed);
  Gradients grads{like(q), like(k), like(v), zeros_for(options.sinks, q)};
  attention_backward_into(grads, loss, q, k, v, out, lse, pattern, options);
  return grads;
}

}  // namespace lace::ops
