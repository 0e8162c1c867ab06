// lace::attention above attention_call.h: the autograd functions, reached from C++ with a Pattern,
// and from torch.ops (which torch.compile traces) with its text. The registration stands in this
// file so that a program that links the static library and calls lace::attention has it too.

#include "lace/attention.h"

#include <mutex>
#include <tuple>
#include <unordered_map>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "kernels/kernel.h"
#include "ops/attention_arguments.h"
#include "ops/attention_call.h"
#include "ops/seen_patterns.h"

namespace lace {

namespace ops {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// ---- the operations of torch.ops below autograd -------------------------------------------------

// The pattern of a text. One that names mask files is parsed at each call, for they may have
// changed; a file that has not is not read again.
Pattern parse_cached(const std::string& text) {
  constexpr size_t kMaxTexts = 256;
  static std::mutex mutex;
  static std::unordered_map<std::string, Pattern> parsed;
  if (text.find("mask") != std::string::npos) return Pattern::parse(text);
  std::lock_guard lock(mutex);
  const auto found = parsed.find(text);
  if (found != parsed.end()) return found->second;
  if (parsed.size() >= kMaxTexts) parsed.clear();
  return parsed.emplace(text, Pattern::parse(text)).first->second;
}

std::tuple<at::Tensor, at::Tensor> attention_op(const at::Tensor& q, const at::Tensor& k,
                                                const at::Tensor& v, const std::string& pattern,
                                                std::optional<double> scale, bool deterministic) {
  const Pattern parsed = parse_cached(pattern);
  auto results = attention_forward(q, k, v, parsed, {scale, deterministic});
  remember_pattern(std::get<1>(results), pattern, parsed);
  return results;
}

Gradients attention_backward_op(const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k,
                                const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse,
                                const std::string& pattern, std::optional<double> scale,
                                bool deterministic) {
  const std::optional<Pattern> seen = remembered_pattern(lse, pattern);
  return attention_backward(dout, q, k, v, out, lse, seen ? *seen : parse_cached(pattern),
                            {scale, deterministic});
}

// Shapes, dtypes and strides only, sizes possibly symbolic: what torch.compile traces.
std::tuple<at::Tensor, at::Tensor> attention_meta(const at::Tensor& q, const at::Tensor& k,
                                                  const at::Tensor& v, const std::string&,
                                                  std::optional<double>, bool) {
  LACE_CHECK(q.dim() == 4 && k.dim() == 4 && v.dim() == 4,
             "[attention] q, k and v must have the shape [batch, heads, seq_len, head_dim], got ",
             q.dim(), ", ", k.dim(), " and ", v.dim(), " dimensions");
  const auto lse_type = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return {
      empty_result(q, q.sym_size(0), q.sym_size(1), q.sym_size(2), v.sym_size(3)),
      at::empty_symint({q.sym_size(0), q.sym_size(1), q.sym_size(2)}, q.options().dtype(lse_type))};
}

Gradients attention_backward_meta(const at::Tensor&, const at::Tensor& q, const at::Tensor& k,
                                  const at::Tensor& v, const at::Tensor&, const at::Tensor&,
                                  const std::string&, std::optional<double>, bool) {
  auto like = [](const at::Tensor& t) {
    return empty_result(t, t.sym_size(0), t.sym_size(1), t.sym_size(2), t.sym_size(3));
  };
  return {like(q), like(k), like(v)};
}

// ---- autograd
// ------------------------------------------------------------------------------------

// A pattern on its way through autograd: the value from C++, its text from torch.ops, whose calls
// go on through the dispatcher, where torch.compile traces them.
struct PatternArgument final : torch::CustomClassHolder {
  PatternArgument(Pattern pattern, AttentionOptions options)
      : pattern(std::move(pattern)), options(options) {}
  PatternArgument(std::string text, AttentionOptions options)
      : text(std::move(text)), options(options) {}

  std::optional<Pattern> pattern;
  std::string text;
  std::optional<Pattern> seen;  // by forward, where the text names files
  AttentionOptions options;

  std::tuple<at::Tensor, at::Tensor> call_forward(const at::Tensor& q, const at::Tensor& k,
                                                  const at::Tensor& v) {
    if (pattern) return attention_forward(q, k, v, *pattern, options);
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("lace::attention", "")
                               .typed<decltype(attention_op)>();
    auto results = op.call(q, k, v, text, options.scale, options.deterministic);
    seen = remembered_pattern(std::get<1>(results), text);
    return results;
  }

  Gradients call_backward(const variable_list& t) const {
    if (pattern) return attention_backward(t[0], t[1], t[2], t[3], t[4], t[5], *pattern, options);
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("lace::attention_backward", "")
                               .typed<decltype(attention_backward_op)>();
    if (seen) remember_pattern(t[5], text, *seen);  // hooks may have put lse elsewhere
    return op.call(t[0], t[1], t[2], t[3], t[4], t[5], text, options.scale, options.deterministic);
  }
};
using PatternPointer = c10::intrusive_ptr<PatternArgument>;

// Gradients of q, k, v; its own backward says that there is none.
class AttentionBackward : public torch::autograd::Function<AttentionBackward> {
 public:
  static variable_list forward(AutogradContext*, const at::Tensor& dout, const at::Tensor& q,
                               const at::Tensor& k, const at::Tensor& v, const at::Tensor& out,
                               const at::Tensor& lse, const PatternPointer& pattern) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [dq, dk, dv] = pattern->call_backward({dout, q, k, v, out, lse});
    return {dq, dk, dv};
  }

  static variable_list backward(AutogradContext*, const variable_list&) {
    throw Error(
        "[attention] gradients of gradients are not computed: attention can be "
        "differentiated once");
  }
};

class Attention : public torch::autograd::Function<Attention> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k,
                               const at::Tensor& v, const PatternPointer& pattern) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [out, lse] = pattern->call_forward(q, k, v);
    context->save_for_backward({q, k, v, out, lse});
    context->saved_data["pattern"] = c10::IValue::make_capsule(pattern);
    context->set_materialize_grads(false);
    // From torch.ops, lse is cut off from the graph, as torch.compile needs; from C++ it stays, so
    // that a backward through it is an error and not a silent zero.
    if (!pattern->pattern) context->mark_non_differentiable({lse});
    return {out, lse};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    LACE_CHECK(!grads[1].defined(),
               "[attention] lse is not differentiable: use lse.detach() in the loss");
    variable_list result(4);  // q, k, v, pattern
    if (!grads[0].defined()) return result;
    const variable_list saved = context->get_saved_variables();
    const auto pattern = c10::static_intrusive_pointer_cast<PatternArgument>(
        context->saved_data["pattern"].toCapsule());
    const variable_list gradients = AttentionBackward::apply(grads[0], saved[0], saved[1], saved[2],
                                                             saved[3], saved[4], pattern);
    std::copy(gradients.begin(), gradients.end(), result.begin());
    return result;
  }
};

std::tuple<at::Tensor, at::Tensor> attention_autograd(const at::Tensor& q, const at::Tensor& k,
                                                      const at::Tensor& v,
                                                      const std::string& pattern,
                                                      std::optional<double> scale,
                                                      bool deterministic) {
  const auto argument =
      c10::make_intrusive<PatternArgument>(pattern, AttentionOptions{scale, deterministic});
  const variable_list results = Attention::apply(q, k, v, argument);
  return {results[0], results[1]};
}

Gradients attention_backward_autograd(const at::Tensor& dout, const at::Tensor& q,
                                      const at::Tensor& k, const at::Tensor& v,
                                      const at::Tensor& out, const at::Tensor& lse,
                                      const std::string& pattern, std::optional<double> scale,
                                      bool deterministic) {
  const auto argument =
      c10::make_intrusive<PatternArgument>(pattern, AttentionOptions{scale, deterministic});
  const variable_list results = AttentionBackward::apply(dout, q, k, v, out, lse, argument);
  return {results[0], results[1], results[2]};
}

// ---- autocast
// ------------------------------------------------------------------------------------

// As autocast treats scaled_dot_product_attention: float16, bfloat16 and float32 become the
// autocast dtype; float64 stays.
at::Tensor autocast(const at::Tensor& tensor) {
  const auto device = tensor.device().type();
  return at::autocast::cached_cast(at::autocast::get_autocast_dtype(device), tensor, device);
}

template <c10::DispatchKey kKey>
std::tuple<at::Tensor, at::Tensor> attention_autocast(const at::Tensor& q, const at::Tensor& k,
                                                      const at::Tensor& v,
                                                      const std::string& pattern,
                                                      std::optional<double> scale,
                                                      bool deterministic) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(kKey);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("lace::attention", "")
                             .typed<decltype(attention_op)>();
  return op.call(autocast(q), autocast(k), autocast(v), pattern, scale, deterministic);
}

}  // namespace

}  // namespace ops

std::pair<at::Tensor, at::Tensor> attention_with_lse(const at::Tensor& q, const at::Tensor& k,
                                                     const at::Tensor& v, const Pattern& pattern,
                                                     const AttentionOptions& options) {
  for (const auto& [name, tensor] : {std::pair("q", &q), std::pair("k", &k), std::pair("v", &v)}) {
    LACE_CHECK(tensor->defined(), "[attention] ", name, " is an undefined tensor");
  }
  const auto argument = c10::make_intrusive<ops::PatternArgument>(pattern, options);
  const bool cast = at::autocast::is_autocast_enabled(q.device().type());
  const auto results =
      cast ? ops::Attention::apply(ops::autocast(q), ops::autocast(k), ops::autocast(v), argument)
           : ops::Attention::apply(q, k, v, argument);
  return {results[0], results[1]};
}

at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const Pattern& pattern, const AttentionOptions& options) {
  return attention_with_lse(q, k, v, pattern, options).first;
}

std::string attention_kernel(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const AttentionShape shape = ops::check_attention("attention", q, k, v, {}).shape;
  const c10::DeviceGuard device(q.device());
  return std::string(select_kernel(shape).name);
}

TORCH_LIBRARY(lace, library) {
  library.def(
      "attention(Tensor q, Tensor k, Tensor v, str pattern, *, float? scale=None, "
      "bool deterministic=False) -> (Tensor out, Tensor lse)",
      {at::Tag::pt2_compliant_tag, at::Tag::needs_exact_strides});
  library.def(
      "attention_backward(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
      "str pattern, *, float? scale=None, bool deterministic=False) -> (Tensor dq, Tensor dk, "
      "Tensor dv)",
      {at::Tag::pt2_compliant_tag, at::Tag::needs_exact_strides});
}

// On CUDA tensors in every build: without CUDA the kernel table says that none of its kernels can
// run.
TORCH_LIBRARY_IMPL(lace, CPU, library) {
  library.impl("attention", ops::attention_op);
  library.impl("attention_backward", ops::attention_backward_op);
}
TORCH_LIBRARY_IMPL(lace, CUDA, library) {
  library.impl("attention", ops::attention_op);
  library.impl("attention_backward", ops::attention_backward_op);
}
TORCH_LIBRARY_IMPL(lace, Meta, library) {
  library.impl("attention", ops::attention_meta);
  library.impl("attention_backward", ops::attention_backward_meta);
}
TORCH_LIBRARY_IMPL(lace, Autograd, library) {
  library.impl("attention", ops::attention_autograd);
  library.impl("attention_backward", ops::attention_backward_autograd);
}
TORCH_LIBRARY_IMPL(lace, AutocastCPU, library) {
  library.impl("attention", ops::attention_autocast<c10::DispatchKey::AutocastCPU>);
}
TORCH_LIBRARY_IMPL(lace, AutocastCUDA, library) {
  library.impl("attention", ops::attention_autocast<c10::DispatchKey::AutocastCUDA>);
}

}  // namespace lace
