#include "ops/kernel_call.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "lace/error.h"

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

std::shared_ptr<const Plan> forward_plan(const Kernel& kernel, const AttentionShape& shape,
                                         const AttentionArguments& arguments,
                                         const Pattern& pattern) {
  const TileShape tile = kernel.tiles(shape).forward;
  auto plan = plan_for(arguments, pattern, tile, false);
  if (kernel.best_forward_tile == nullptr) return plan;
  const TileShape best = kernel.best_forward_tile(shape, *plan);
  if (best == tile) return plan;
  auto better = plan_for(arguments, pattern, best, false);
  return kernel.best_forward_tile(shape, *better) == best ? better : plan;
}

// A call's kernel, and what it is given: `filled` is the shape that it takes, with head_dims of its
// own where it has none for those of the call (kernels/kernel.h).
struct KernelCall {
  AttentionShape shape, filled;
  bool clears = false;  // whether results must hold zeros before the kernel writes to them

  KernelCall(const Kernel& kernel, const AttentionShape& of)
      : shape(of),
        filled(lace::filled(kernel, of)),
        clears(of.sequences && (!kernel.clears_rows || of.batch == 0)) {}

  bool fills() const { return shape.qk_dim != filled.qk_dim || shape.v_dim != filled.v_dim; }

  // q, k, v, out or dout with contiguous rows of `dim` elements, zeros behind its own: a copy only
  // where it must be one.
  at::Tensor input(const at::Tensor& tensor, int64_t dim) const {
    if (tensor.size(3) != dim) {
      const at::Tensor copy = new_tensor(tensor, dim);
      copy.narrow(3, 0, tensor.size(3)).copy_(tensor);
      copy.narrow(3, tensor.size(3), dim - tensor.size(3)).zero_();
      return copy;
    }
    return fills() && filled.aligned ? with_aligned_rows(tensor) : with_contiguous_rows(tensor);
  }
  // What the kernel writes instead of `tensor`, which write_back() fills: itself where it can be.
  at::Tensor result(const at::Tensor& tensor, int64_t dim) const {
    const bool fits = tensor.size(3) == dim && (!fills() || is_aligned(tensor));
    return fits ? tensor : new_tensor(tensor, dim);
  }
  static void write_back(const at::Tensor& result, const at::Tensor& tensor) {
    if (!result.is_same(tensor)) tensor.copy_(result.narrow(3, 0, tensor.size(3)));
  }

 private:
  static at::Tensor new_tensor(const at::Tensor& like, int64_t dim) {
    return empty_result(like, like.size(0), like.size(1), like.size(2), dim);
  }
};

// q, k and v as a kernel takes them, and a mask of blocks beside the plan; it must outlive the
// call.
struct InputRows {
  at::Tensor q, k, v, live_blocks;

  InputRows(const KernelCall& call, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
            const AttentionOptions& options)
      : q(call.input(q, call.filled.qk_dim)),
        k(call.input(k, call.filled.qk_dim)),
        v(call.input(v, call.filled.v_dim)) {
    if (call.shape.live_blocks) {
      live_blocks = options.block_mask.to(q.device(), /*non_blocking=*/true).contiguous();
    }
  }

  LiveBlocks blocks(const AttentionShape& shape, int64_t block_size) const {
    if (!live_blocks.defined()) return {};
    const int64_t heads = live_blocks.dim() == 2 ? 1 : live_blocks.size(0);
    const int64_t first = shape.sequences ? 0 : shape.k_len - shape.q_len;
    return {live_blocks.const_data_ptr<bool>(), static_cast<int32_t>(heads),
            static_cast<int32_t>(live_blocks.size(-1)),
            static_cast<int32_t>(std::min(block_size, int64_t{1} << 30)),
            static_cast<int32_t>(first)};
  }

  // Args: ForwardArgs or BackwardArgs.
  template <typename Args>
  Args args(const KernelCall& call, const AttentionArguments& arguments,
            const AttentionOptions& options) const {
    const bool packed = call.shape.packed;
    Args args;
    args.shape = call.filled;
    args.sequences = sequences_of(options.sequences);
    args.scale = arguments.scale;
    args.softcap = arguments.softcap;
    args.blocks = blocks(call.shape, options.block_size);
    args.q = to_tensor4(q, packed);
    args.k = to_tensor4(k, packed);
    args.v = to_tensor4(v, packed);
    return args;
  }
};

}  // namespace

std::pair<at::Tensor, at::Tensor> run_forward(const Kernel& kernel,
                                              const AttentionArguments& arguments,
                                              const at::Tensor& q, const at::Tensor& k,
                                              const at::Tensor& v, const Pattern& pattern,
                                              const AttentionOptions& options) {
  const AttentionShape& shape = arguments.shape;
  const bool packed = shape.packed;
  const KernelCall call(kernel, shape);
  const auto plan = forward_plan(kernel, call.filled, arguments, pattern);
  const int64_t batch = shape.batch_in_memory();
  at::Tensor out = empty_result(q, batch, shape.heads, shape.q_len, shape.v_dim);
  at::Tensor lse =
      at::empty({batch, shape.heads, shape.q_len}, q.options().dtype(lse_type(q.scalar_type())));
  const at::Tensor written = call.result(out, call.filled.v_dim);
  const InputRows rows(call, q, k, v, options);
  auto args = rows.args<ForwardArgs>(call, arguments, options);
  args.out = to_tensor4(written, packed);
  args.lse = lse.data_ptr();
  const bool joins = options.sinks.defined() && !kernel.joins_sinks;
  at::Tensor sinks;
  if (options.sinks.defined() && !joins) {
    sinks = options.sinks.to(at::kFloat).contiguous();
    args.sinks = sinks.const_data_ptr<float>();
  }
  if (call.clears) {
    written.zero_();
    lse.fill_(joins ? kNoRow : -kNoRow);
  }
  if (shape.batch > 0) {
    kernel.forward(make_torch_context(q.device(), options.deterministic), *plan, args);
  }
  KernelCall::write_back(written, out);
  if (joins) join_sinks(out, lse, options.sinks);
  return {out, lse};
}

void run_backward(const Kernel& kernel, const AttentionArguments& arguments, Gradients& grads,
                  const LossGradients& loss, const at::Tensor& q, const at::Tensor& k,
                  const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse,
                  const Pattern& pattern, const AttentionOptions& options) {
  const AttentionShape& shape = arguments.shape;
  const bool packed = shape.packed;
  const KernelCall call(kernel, shape);
  const AttentionShape& filled = call.filled;
  const KernelTiles tiles = kernel.tiles(filled);
  const auto plan = plan_for(arguments, pattern, tiles.forward, false);
  const auto transposed = plan_for(arguments, pattern, tiles.transposed, true);
  const at::Tensor dq = call.result(grads.q, filled.qk_dim),
                   dk = call.result(grads.k, filled.qk_dim),
                   dv = call.result(grads.v, filled.v_dim);
  const auto write_back = [&] {
    KernelCall::write_back(dq, grads.q);
    KernelCall::write_back(dk, grads.k);
    KernelCall::write_back(dv, grads.v);
  };
  if (call.clears) {
    for (const at::Tensor& gradient : {dq, dk, dv}) gradient.zero_();
  }
  if (shape.batch == 0) return write_back();
  const InputRows rows(call, q, k, v, options);
  const bool on_cpu = shape.device == Device::kCpu;
  LACE_CHECK(
      on_cpu || !filled.aligned || (is_aligned(dq) && is_aligned(dk) && is_aligned(dv)),
      "[attention_backward] gradients must begin at multiples of 16 bytes, with strides that "
      "are positive multiples of them, where q, k and v do");
  const auto input = [&](const at::Tensor& tensor) {
    const at::Tensor wide = call.input(tensor, filled.v_dim);
    return on_cpu ? wide : with_aligned_rows(wide);
  };
  const at::Tensor out_rows = input(out), dout_rows = input(loss.out);
  const at::Tensor dlse = loss.lse.defined() ? loss.lse.contiguous() : at::Tensor();
  const at::Tensor delta = options.sinks.defined() ? at::empty_like(lse) : at::Tensor();
  auto args = rows.args<BackwardArgs>(call, arguments, options);
  args.out = to_tensor4(out_rows, packed);
  args.dout = to_tensor4(dout_rows, packed);
  args.dq = to_tensor4(dq, packed);
  args.dk = to_tensor4(dk, packed);
  args.dv = to_tensor4(dv, packed);
  args.lse = lse.data_ptr();
  if (dlse.defined()) args.dlse = dlse.data_ptr();
  if (delta.defined()) args.delta = delta.data_ptr();
  kernel.backward(make_torch_context(q.device(), options.deterministic), *plan, *transposed, args);
  write_back();
  if (delta.defined()) grads.sinks = sinks_gradient(delta, lse, options.sinks);
}

}  // namespace lace::ops
