// The matrix products of the linear layers: which library computes them, and how they are cut into
// tasks. A task runs on one thread, and the cut follows from the shapes alone: results depend
// neither on the number of threads nor on who is slow.

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include "kernels/products/products.h"
#include "model/layers.h"
#include "ops/attention_arguments.h"
#include "ops/torch_context.h"

// CBLAS's product of 16-bit matrices with sums and result in float32; inside libtorch, where it is
// built with MKL.
extern "C" {
using LaceMixedGemm = void(int layout, int trans_a, int trans_b, int m, int n, int k, float alpha,
                           const void* a, int lda, const void* b, int ldb, float beta, float* c,
                           int ldc);
__attribute__((weak)) LaceMixedGemm cblas_gemm_bf16bf16f32, cblas_gemm_f16f16f32;
}

namespace lace::model {

namespace {

// libtorch gives float32 products to MKL, which on other makers' processors reaches 50–60% of the
// peak where oneDNN reaches 90%; on Intel's the two are equal. Products in bfloat16 go to oneDNN.
bool prefer_onednn(const at::Tensor& x) {
  static const bool other_maker = !__builtin_cpu_is("intel");
  return other_maker && x.is_cpu() && x.scalar_type() == at::kFloat;
}

bool is_16_bit(const at::Tensor& x) {
  return x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kHalf;
}

// The products of a GPU. In float32, which only logits are computed in, they are libtorch's.
const Products& gpu() { return *products(Device::kCuda); }
Context gpu_context(const at::Tensor& x) { return ops::make_torch_context(x.device(), false); }
LinearShape shape_of(const at::Tensor& x, const at::Tensor& y) {
  return {x.size(0), x.size(1), y.size(1), ops::to_dtype("model", x.scalar_type())};
}

int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

// A range in equal parts, but for the last.
struct Cut {
  int64_t size, length;

  // At most `parts`, each a multiple of `unit`.
  static Cut into(int64_t size, int64_t parts, int64_t unit) {
    return {size, std::max(unit, round_up((size + parts - 1) / parts, unit))};
  }
  int64_t parts() const { return (size + length - 1) / length; }
  int64_t begin(int64_t part) const { return part * length; }
  int64_t count(int64_t part) const { return std::min(length, size - begin(part)); }
};

// Operations that take one thread about 150 µs, many times what it costs to call a library.
int64_t task_operations(const at::Tensor& x) { return is_16_bit(x) ? 1 << 26 : 1 << 24; }

// In how many tasks to compute a product: two from half of task_operations on, since a small
// product that is left to one thread keeps all others waiting.
int64_t wanted_tasks(int64_t operations, int64_t task_operations) {
  return operations < task_operations / 2 ? 1 : std::max<int64_t>(2, operations / task_operations);
}

// y = x weight (+ bias), weight [in, out], any strides.
at::Tensor product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const int64_t rows = x.size(0), in = x.size(1), out = weight.size(1);
  const at::Tensor y = at::empty({rows, out}, x.options());
  // Libraries read and pack the whole weight for each task, and reach their best rates from some
  // hundred rows on; with few rows, more tasks count for more.
  constexpr int64_t kMinRows = 128, kMinTasks = 4, kMinColumns = 64;
  const int64_t task_rows = is_16_bit(x) ? 512 : 1024;
  // To read a weight costs as much as to multiply it with this many rows.
  constexpr int64_t kWeightRows = 32;
  const int64_t wanted = wanted_tasks(2 * in * out * (rows + kWeightRows), task_operations(x));
  const int64_t row_parts = std::max(rows / task_rows, std::min(rows / kMinRows, kMinTasks));
  const Cut by_rows = Cut::into(rows, std::clamp<int64_t>(row_parts, 1, wanted), 16);
  const Cut by_columns = by_rows.parts() > 1
                             ? Cut{out, out}
                             : Cut::into(out, std::min(wanted, out / kMinColumns + 1), kMinColumns);
  const bool onednn = prefer_onednn(x);
  const at::Tensor w = onednn ? weight.t().contiguous().t() : weight;
  run_tasks(ops::current_executor(), by_rows.parts() * by_columns.parts(), [&](int64_t task, int) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const int64_t r = task / by_columns.parts(), c = task % by_columns.parts();
    const auto columns = [&](const at::Tensor& t) {
      return t.narrow(-1, by_columns.begin(c), by_columns.count(c));
    };
    const at::Tensor x_part = x.narrow(0, by_rows.begin(r), by_rows.count(r));
    const at::Tensor w_part = columns(w);
    const at::Tensor b_part = bias.defined() ? columns(bias) : bias;
    at::Tensor y_part = columns(y.narrow(0, by_rows.begin(r), by_rows.count(r)));
    if (onednn) {
      y_part.copy_(onednn_linear(x_part, w_part.t(), b_part));
    } else if (!y_part.is_contiguous()) {
      y_part.copy_(b_part.defined() ? at::addmm(b_part, x_part, w_part) : at::mm(x_part, w_part));
    } else if (b_part.defined()) {
      at::addmm_out(y_part, b_part, x_part, w_part);
    } else {
      at::mm_out(y_part, x_part, w_part);
    }
  });
  return y;
}

LaceMixedGemm* mixed_gemm(const at::Tensor& x) {
  return x.scalar_type() == at::kBFloat16 ? cblas_gemm_bf16bf16f32
         : x.scalar_type() == at::kHalf   ? cblas_gemm_f16f16f32
                                          : nullptr;
}

// out = dyᵀ x on one thread; out wide [m, n], contiguous; dy [k, m], x [k, n], rows contiguous.
void transposed_product(at::Tensor out, const at::Tensor& dy, const at::Tensor& x) {
  if (LaceMixedGemm* gemm = mixed_gemm(x)) {
    constexpr int kRowMajor = 101, kNoTranspose = 111, kTranspose = 112;
    gemm(kRowMajor, kTranspose, kNoTranspose, static_cast<int>(out.size(0)),
         static_cast<int>(out.size(1)), static_cast<int>(x.size(0)), 1, dy.const_data_ptr(),
         static_cast<int>(dy.stride(0)), x.const_data_ptr(), static_cast<int>(x.stride(0)), 0,
         out.mutable_data_ptr<float>(), static_cast<int>(out.stride(0)));
  } else if (prefer_onednn(x)) {
    out.copy_(onednn_linear(dy.t().contiguous(), x.t().contiguous(), {}));
  } else {
    at::mm_out(out, dy.to(out.scalar_type()).t(), x.to(out.scalar_type()));
  }
}

// into (+)= the sum of parts [parts, elements] over the parts.
void add_parts(const at::Tensor& parts, const at::Tensor& into, bool add) {
  const Cut cut{into.size(0), 1 << 15};
  run_tasks(ops::current_executor(), cut.parts(), [&](int64_t task, int) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const at::Tensor from = parts.narrow(1, cut.begin(task), cut.count(task));
    at::Tensor to = into.narrow(0, cut.begin(task), cut.count(task));
    if (add) {
      to.add_(from.size(0) == 1 ? from[0] : from.sum(0));
    } else {
      at::sum_out(to, from, {0});
    }
  });
}

}  // namespace

at::Tensor onednn_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  using Scalars = c10::List<std::optional<at::Scalar>>;
  using Signature =
      at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                 std::string_view, Scalars, std::optional<std::string_view>);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
                             .typed<Signature>();
  return op.call(x, weight, bias.defined() ? std::optional(bias) : std::nullopt, "none", Scalars(),
                 "");
}

at::Tensor linear_forward(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (x.is_cpu()) return product(x, weight.t(), bias);
  if (!is_16_bit(x)) return bias.defined() ? at::addmm(bias, x, weight.t()) : at::mm(x, weight.t());
  const at::Tensor y = at::empty({x.size(0), weight.size(0)}, x.options());
  gpu().linear(gpu_context(x),
               {shape_of(x, y), x.const_data_ptr(), weight.const_data_ptr(),
                bias.defined() ? bias.const_data_ptr() : nullptr, y.mutable_data_ptr()});
  return y;
}

at::Tensor linear_grad_input(const at::Tensor& dy, const at::Tensor& weight) {
  if (dy.is_cpu()) return product(dy, weight, {});
  if (!is_16_bit(dy)) return at::mm(dy, weight);
  const at::Tensor dx = at::empty({dy.size(0), weight.size(1)}, dy.options());
  gpu().grad_input(gpu_context(dy), {shape_of(dx, dy), dy.const_data_ptr(), weight.const_data_ptr(),
                                     dx.mutable_data_ptr()});
  return dx;
}

std::pair<at::Tensor, at::Tensor> linear_gelu(const at::Tensor& x, const at::Tensor& weight,
                                              const at::Tensor& bias, bool keep_u) {
  if (x.is_cpu() || !is_16_bit(x)) {
    const at::Tensor u = linear_forward(x, weight, bias);
    return {keep_u ? u : at::Tensor(), quick_gelu(u)};
  }
  const at::Tensor y = at::empty({x.size(0), weight.size(0)}, x.options());
  const at::Tensor u = keep_u ? at::empty_like(y) : at::Tensor();
  gpu().linear_gelu(gpu_context(x),
                    {shape_of(x, y), x.const_data_ptr(), weight.const_data_ptr(),
                     bias.defined() ? bias.const_data_ptr() : nullptr,
                     keep_u ? u.mutable_data_ptr() : nullptr, y.mutable_data_ptr()});
  return {u, y};
}

at::Tensor linear_grad_input_gelu(const at::Tensor& dy, const at::Tensor& weight,
                                  const at::Tensor& u, const Into& sum) {
  if (dy.is_cpu() || !is_16_bit(dy)) return quick_gelu_grad(linear_grad_input(dy, weight), u, sum);
  const at::Tensor du = at::empty_like(u);
  gpu().grad_input_gelu(
      gpu_context(dy), {shape_of(u, dy),
                        dy.const_data_ptr(),
                        weight.const_data_ptr(),
                        u.const_data_ptr(),
                        du.mutable_data_ptr(),
                        {sum.tensor.defined() ? sum.tensor.mutable_data_ptr() : nullptr, sum.add}});
  return du;
}

// Tasks are parts of the sum over the rows of dy and x, as long as their results take little room
// and their rows are many, and blocks of rows of the result.
void linear_grad_weight(const at::Tensor& dy, const at::Tensor& x, const Into& weight_grad) {
  at::Tensor into = weight_grad.tensor;
  if (dy.is_cuda()) {
    if (is_16_bit(dy)) {
      gpu().grad_weight(gpu_context(dy), {shape_of(x, dy), dy.const_data_ptr(), x.const_data_ptr(),
                                          into.mutable_data_ptr<float>(), weight_grad.add});
    } else {
      weight_grad.add ? into.addmm_(dy.t(), x) : at::mm_out(into, dy.t(), x);
    }
    return;
  }
  const int64_t rows = dy.size(0), out = dy.size(1), in = x.size(1);
  constexpr int64_t kMaxElements = 1 << 19, kMinRows = 1024, kMaxParts = 8, kMinTasks = 4;
  const int64_t wanted = wanted_tasks(2 * rows * out * in, task_operations(dy));
  const int64_t blocks = (out * in + kMaxElements - 1) / kMaxElements;
  const int64_t sums = std::min(wanted, kMaxParts) / blocks;
  const Cut by_sum =
      Cut::into(rows, std::clamp<int64_t>(sums, 1, std::max<int64_t>(1, rows / kMinRows)), 16);
  const int64_t tasks = std::min(wanted, kMinTasks);
  const Cut by_out =
      Cut::into(out, std::max(blocks, (tasks + by_sum.parts() - 1) / by_sum.parts()), 16);
  const bool direct = by_sum.parts() == 1 && !weight_grad.add;
  const at::Tensor parts =
      direct ? into.unsqueeze(0) : at::empty({by_sum.parts(), out, in}, into.options());
  run_tasks(ops::current_executor(), by_sum.parts() * by_out.parts(), [&](int64_t task, int) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const int64_t s = task / by_out.parts(), o = task % by_out.parts();
    transposed_product(
        parts[s].narrow(0, by_out.begin(o), by_out.count(o)),
        dy.narrow(0, by_sum.begin(s), by_sum.count(s)).narrow(1, by_out.begin(o), by_out.count(o)),
        x.narrow(0, by_sum.begin(s), by_sum.count(s)));
  });
  if (!direct) add_parts(parts.view({by_sum.parts(), -1}), into.view({-1}), weight_grad.add);
}

}  // namespace lace::model
