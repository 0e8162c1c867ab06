#include "ops/attention_call.h"

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>

#include "kernels/kernel.h"
#include "ops/attention_arguments.h"
#include "ops/report_kernel.h"
#include "ops/sinks.h"
#include "ops/torch_context.h"
#include "plan/plan.h"

namespace lace::ops {

namespace {

std::shared_ptr<const Plan> plan_for(const AttentionShape& shape, const Pattern& pattern,
                                     TileShape tile, bool transposed) {
  return cached_plan(pattern, shape.heads, shape.q_len, shape.k_len, tile, transposed);
}

std::shared_ptr<const Plan> forward_plan(const Kernel& kernel, const AttentionShape& shape,
                                         const Pattern& pattern) {
  const TileShape tile = kernel.tiles(shape).forward;
  auto plan = plan_for(shape, pattern, tile, false);
  if (kernel.best_forward_tile == nullptr) return plan;
  const TileShape best = kernel.best_forward_tile(shape, *plan);
  if (best == tile) return plan;
  auto better = plan_for(shape, pattern, best, false);
  return kernel.best_forward_tile(shape, *better) == best ? better : plan;
}

// q, k and v as a kernel takes them; it must outlive the call.
struct InputRows {
  at::Tensor q, k, v;

  InputRows(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v)
      : q(with_contiguous_rows(q)), k(with_contiguous_rows(k)), v(with_contiguous_rows(v)) {}

  // Args: ForwardArgs or BackwardArgs.
  template <typename Args>
  Args args(const AttentionArguments& arguments) const {
    Args args;
    args.shape = arguments.shape;
    args.scale = arguments.scale;
    args.q = to_tensor4(q);
    args.k = to_tensor4(k);
    args.v = to_tensor4(v);
    return args;
  }
};

// Zeros as `sinks`, of no elements if there are none.
at::Tensor zeros_for(const at::Tensor& sinks, const at::Tensor& q) {
  return sinks.defined() ? at::zeros_like(sinks) : at::empty({0}, q.options());
}

}  // namespace

std::pair<at::Tensor, at::Tensor> attention_forward(const at::Tensor& q, const at::Tensor& k,
                                                    const at::Tensor& v, const Pattern& pattern,
                                                    const AttentionOptions& options) {
  const AttentionArguments arguments = check_attention("attention", q, k, v, options.scale);
  const AttentionShape& shape = arguments.shape;
  check_sinks("attention", arguments, options.sinks, q);
  const c10::DeviceGuard device(q.device());
  std::string passed_over;
  const Kernel& kernel = select_kernel(shape, &passed_over);
  report_kernel(shape, kernel, passed_over);
  const auto plan = forward_plan(kernel, shape, pattern);
  at::Tensor out = empty_result(q, shape.batch, shape.heads, shape.q_len, shape.v_dim);
  at::Tensor lse = at::empty({shape.batch, shape.heads, shape.q_len},
                             q.options().dtype(lse_type(q.scalar_type())));
  if (shape.batch == 0) return {out, lse};
  const InputRows rows(q, k, v);
  auto args = rows.args<ForwardArgs>(arguments);
  args.out = to_tensor4(out);
  args.lse = lse.data_ptr();
  kernel.forward(make_torch_context(q.device(), options.deterministic), *plan, args);
  if (options.sinks.defined()) join_sinks(out, lse, options.sinks);
  return {out, lse};
}

void attention_backward_into(Gradients& grads, const LossGradients& loss, const at::Tensor& q,
                             const at::Tensor& k, const at::Tensor& v, const at::Tensor& out,
                             const at::Tensor& lse, const Pattern& pattern,
                             const AttentionOptions& options) {
  const AttentionArguments arguments =
      check_attention("attention_backward", q, k, v, options.scale);
  check_attention_backward(arguments, loss.out, out, lse, loss.lse);
  check_sinks("attention_backward", arguments, options.sinks, q);
  const at::Tensor &dq = grads.q, &dk = grads.k, &dv = grads.v;
  const AttentionShape& shape = arguments.shape;
  const c10::DeviceGuard device(q.device());
  const Kernel& kernel = select_kernel(shape);
  const KernelTiles tiles = kernel.tiles(shape);
  const auto plan = plan_for(shape, pattern, tiles.forward, false);
  const auto transposed = plan_for(shape, pattern, tiles.transposed, true);
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
  auto args = rows.args<BackwardArgs>(arguments);
  args.out = to_tensor4(out_rows);
  args.dout = to_tensor4(dout_rows);
  args.dq = to_tensor4(dq);
  args.dk = to_tensor4(dk);
  args.dv = to_tensor4(dv);
  args.lse = lse.data_ptr();
  if (dlse.defined()) args.dlse = dlse.data_ptr();
  if (delta.defined()) args.delta = delta.data_ptr();
  kernel.backward(make_torch_context(q.device(), options.deterministic), *plan, *transposed, args);
  if (delta.defined()) grads.sinks = sinks_gradient(delta, lse, options.sinks);
}

Gradients attention_backward(const LossGradients& loss, const at::Tensor& q, const at::Tensor& k,
                             const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse,
                             const Pattern& pattern, const AttentionOptions& options) {
  check_attention("attention_backward", q, k, v, options.scale);
  const auto like = [](const at::Tensor& t) {
    return empty_result(t, t.size(0), t.size(1), t.size(2), t.size(3));
  };
  Gradients grads{like(q), like(k), like(v), zeros_for(options.sinks, q)};
  attention_backward_into(grads, loss, q, k, v, out, lse, pattern, options);
  return grads;
}

}  // namespace lace::ops
