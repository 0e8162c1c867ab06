#include "ops/attention_call.h"

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>

#include "lace/error.h"

#include "kernels/kernel.h"
#include "ops/attention_arguments.h"
#include "ops/kernel_call.h"
#include "ops/report_kernel.h"

namespace lace::ops {

namespace {

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

// Zeros as `sinks`, of no elements if there are none.
at::Tensor zeros_for(const at::Tensor& sinks, const at::Tensor& q) {
  return sinks.defined() ? at::zeros_like(sinks) : at::empty({0}, q.options());
}

// The pattern of a call whose options were checked.
Pattern whole_pattern(const Pattern& pattern, const AttentionOptions& options) {
  if (!options.block_mask.defined()) return pattern;
  const at::Tensor live = options.block_mask.detach().to(at::kCPU).contiguous();
  const bool* first = live.const_data_ptr<bool>();
  return within(pattern, block_mask(live.dim() == 2 ? 1 : live.size(0), live.size(-1),
                                    options.block_size, {first, first + live.numel()}));
}

// Of tensors with a batch, as run_forward and run_backward.
std::pair<at::Tensor, at::Tensor> forward(const at::Tensor& q, const at::Tensor& k,
                                          const at::Tensor& v, const Pattern& pattern,
                                          const AttentionOptions& options, bool packed) {
  const AttentionArguments arguments = check_attention("attention", q, k, v, options, packed);
  const c10::DeviceGuard device(q.device());
  std::string passed_over;
  const Kernel& kernel = select_kernel(arguments.shape, &passed_over);
  report_kernel(arguments.shape, kernel, passed_over);
  return run_forward(kernel, arguments, q, k, v, whole_pattern(pattern, options), options);
}

void backward(Gradients& grads, const LossGradients& loss, const at::Tensor& q, const at::Tensor& k,
              const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse,
              const Pattern& pattern, const AttentionOptions& options, bool packed) {
  const AttentionArguments arguments =
      check_attention("attention_backward", q, k, v, options, packed);
  check_attention_backward(arguments, loss.out, out, lse, loss.lse);
  const c10::DeviceGuard device(q.device());
  run_backward(select_kernel(arguments.shape), arguments, grads, loss, q, k, v, out, lse,
               whole_pattern(pattern, options), options);
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
