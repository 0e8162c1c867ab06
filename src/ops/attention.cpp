// lace::attention above attention_call.h: the autograd functions, reached from C++ with a Pattern,
// and from torch.ops (which torch.compile traces) with its text. The registration stands in this
// file so that a program that links the static library and calls lace::attention has it too.

#include "lace/attention.h"

#include <mutex>
#include <tuple>
#include <unordered_map>

#include <ATen/ATen.h>
#include <ATen/FuncTorchTLS.h>
#include <ATen/autocast_mode.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "lace/sequences.h"

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

using OptionalTensor = std::optional<at::Tensor>;

at::Tensor or_undefined(const OptionalTensor& tensor) { return tensor.value_or(at::Tensor()); }
OptionalTensor or_none(const at::Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

// Sizes that torch.compile(dynamic=True) may hold as symbols.
using OptionalSize = std::optional<c10::SymInt>;

std::optional<int64_t> known(const OptionalSize& size) {
  if (!size) return std::nullopt;
  return size->guard_int(__FILE__, __LINE__);
}

using ForwardResults = std::tuple<at::Tensor, at::Tensor>;
using BackwardResults = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

ForwardResults attention_op(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const std::string& pattern, std::optional<double> scale,
                            bool deterministic, const OptionalTensor& sinks,
                            const OptionalTensor& sequences, OptionalSize max_len,
                            std::optional<double> softcap, const OptionalTensor& block_mask,
                            std::optional<int64_t> block_size) {
  const Pattern parsed = parse_cached(pattern);
  auto results = attention_forward(
      q, k, v, parsed,
      {scale, deterministic, or_undefined(sinks), or_undefined(sequences), known(max_len), softcap,
       or_undefined(block_mask), block_size.value_or(0)});
  remember_pattern(std::get<1>(results), pattern, parsed);
  return results;
}

BackwardResults attention_backward_op(const at::Tensor& dout, const at::Tensor& q,
                                      const at::Tensor& k, const at::Tensor& v,
                                      const at::Tensor& out, const at::Tensor& lse,
                                      const std::string& pattern, std::optional<double> scale,
                                      bool deterministic, const OptionalTensor& sinks,
                                      const OptionalTensor& sequences, OptionalSize max_len,
                                      const OptionalTensor& dlse, std::optional<double> softcap,
                                      const OptionalTensor& block_mask,
                                      std::optional<int64_t> block_size) {
  const std::optional<Pattern> seen = remembered_pattern(lse, pattern);
  const Gradients grads = attention_backward(
      {dout, or_undefined(dlse)}, q, k, v, out, lse, seen ? *seen : parse_cached(pattern),
      {scale, deterministic, or_undefined(sinks), or_undefined(sequences), known(max_len), softcap,
       or_undefined(block_mask), block_size.value_or(0)});
  return {grads.q, grads.k, grads.v, grads.sinks};
}

// Shapes, dtypes and strides only, sizes possibly symbolic: what torch.compile traces.
ForwardResults attention_meta(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const std::string&, std::optional<double>, bool,
                              const OptionalTensor&, const OptionalTensor& sequences, OptionalSize,
                              std::optional<double>, const OptionalTensor&,
                              std::optional<int64_t>) {
  const auto options = q.options().dtype(lse_type(q.scalar_type()));
  if (sequences && q.dim() == 3) {
    LACE_CHECK(v.dim() == 3,
               "[attention] v must have the shape [rows, heads, head_dim], as q has, got ", v.dim(),
               " dimensions");
    return {at::empty_symint({q.sym_size(0), q.sym_size(1), v.sym_size(2)}, q.options()),
            at::empty_symint({q.sym_size(1), q.sym_size(0)}, options)};
  }
  LACE_CHECK(q.dim() == 4 && k.dim() == 4 && v.dim() == 4,
             "[attention] q, k and v must have the shape [batch, heads, seq_len, head_dim], got ",
             q.dim(), ", ", k.dim(), " and ", v.dim(), " dimensions");
  return {empty_result(q, q.sym_size(0), q.sym_size(1), q.sym_size(2), v.sym_size(3)),
          at::empty_symint({q.sym_size(0), q.sym_size(1), q.sym_size(2)}, options)};
}

BackwardResults attention_backward_meta(const at::Tensor&, const at::Tensor& q, const at::Tensor& k,
                                        const at::Tensor& v, const at::Tensor&, const at::Tensor&,
                                        const std::string&, std::optional<double>, bool,
                                        const OptionalTensor& sinks, const OptionalTensor&,
                                        OptionalSize, const OptionalTensor&, std::optional<double>,
                                        const OptionalTensor&, std::optional<int64_t>) {
  auto like = [](const at::Tensor& t) {
    if (t.dim() == 3) return at::empty_symint(t.sym_sizes(), t.options());
    return empty_result(t, t.sym_size(0), t.sym_size(1), t.sym_size(2), t.sym_size(3));
  };
  return {like(q), like(k), like(v), sinks ? at::empty_like(*sinks) : at::empty({0}, q.options())};
}

at::Tensor padded_sequences_op(c10::SymInt batch, c10::SymInt q_rows, c10::SymInt k_rows,
                               const OptionalTensor& k_lens, const OptionalTensor& q_start,
                               const OptionalTensor& k_start, const OptionalTensor& k_first,
                               const OptionalTensor& k_end) {
  return padded_sequences(std::move(batch), std::move(q_rows), std::move(k_rows),
                          {k_lens, q_start, k_start, k_first, k_end});
}

// ---- autograd -----------------------------------------------------------------------------------

// A call on its way through autograd, apart from its tensors: the pattern from C++, its text from
// torch.ops, whose calls go on through the dispatcher, where torch.compile traces them.
struct CallArgument final : torch::CustomClassHolder {
  CallArgument(Pattern pattern, const AttentionOptions& options)
      : pattern(std::move(pattern)), options(without_tensors(options)) {}
  CallArgument(std::string text, const AttentionOptions& options, OptionalSize max_len)
      : text(std::move(text)), options(without_tensors(options)), max_len(std::move(max_len)) {}

  std::optional<Pattern> pattern;
  std::string text;
  std::optional<Pattern> seen;  // by forward, where the text names files
  AttentionOptions options;     // without tensors, which autograd keeps
  OptionalSize max_len;         // of a text

  static AttentionOptions without_tensors(AttentionOptions options) {
    options.sinks = options.sequences = options.block_mask = at::Tensor();
    return options;
  }
  AttentionOptions with_tensors(const at::Tensor& sinks, const at::Tensor& sequences,
                                const at::Tensor& block_mask) const {
    AttentionOptions all = options;
    all.sinks = sinks;
    all.sequences = sequences;
    all.block_mask = block_mask;
    return all;
  }

  ForwardResults call_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const at::Tensor& sinks, const at::Tensor& sequences,
                              const at::Tensor& block_mask) {
    if (pattern) {
      return attention_forward(q, k, v, *pattern, with_tensors(sinks, sequences, block_mask));
    }
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("lace::attention", "")
                               .typed<decltype(attention_op)>();
    auto results = op.call(q, k, v, text, options.scale, options.deterministic, or_none(sinks),
                           or_none(sequences), max_len, options.softcap, or_none(block_mask),
                           options.block_size);
    seen = remembered_pattern(std::get<1>(results), text);
    return results;
  }

  // saved: q, k, v, sinks, sequences, block_mask, out, lse.
  variable_list call_backward(const LossGradients& loss, const variable_list& saved) const {
    const auto &q = saved[0], &k = saved[1], &v = saved[2], &sinks = saved[3],
               &sequences = saved[4], &block_mask = saved[5], &out = saved[6], &lse = saved[7];
    if (pattern) {
      const Gradients grads = attention_backward(loss, q, k, v, out, lse, *pattern,
                                                 with_tensors(sinks, sequences, block_mask));
      return {grads.q, grads.k, grads.v, grads.sinks};
    }
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("lace::attention_backward", "")
                               .typed<decltype(attention_backward_op)>();
    if (seen) remember_pattern(lse, text, *seen);  // hooks may have put lse elsewhere
    const auto [dq, dk, dv, dsinks] =
        op.call(loss.out, q, k, v, out, lse, text, options.scale, options.deterministic,
                or_none(sinks), or_none(sequences), max_len, or_none(loss.lse), options.softcap,
                or_none(block_mask), options.block_size);
    return {dq, dk, dv, dsinks};
  }
};
using CallPointer = c10::intrusive_ptr<CallArgument>;

// Gradients of q, k, v and sinks; its own backward says that there is none.
class AttentionBackward : public torch::autograd::Function<AttentionBackward> {
 public:
  static variable_list forward(AutogradContext*, const at::Tensor& dout, const OptionalTensor& dlse,
                               const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const OptionalTensor& sinks, const OptionalTensor& sequences,
                               const OptionalTensor& block_mask, const at::Tensor& out,
                               const at::Tensor& lse, const CallPointer& call) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    return call->call_backward({dout, or_undefined(dlse)},
                               {q, k, v, or_undefined(sinks), or_undefined(sequences),
                                or_undefined(block_mask), out, lse});
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
                               const at::Tensor& v, const OptionalTensor& sinks,
                               const OptionalTensor& sequences, const OptionalTensor& block_mask,
                               const CallPointer& call) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [out, lse] = call->call_forward(q, k, v, or_undefined(sinks), or_undefined(sequences),
                                         or_undefined(block_mask));
    context->save_for_backward({q, k, v, or_undefined(sinks), or_undefined(sequences),
                                or_undefined(block_mask), out, lse});
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    context->set_materialize_grads(false);
    return {out, lse};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    variable_list result(7);  // q, k, v, sinks, sequences, block_mask, call
    if (!grads[0].defined() && !grads[1].defined()) return result;
    const variable_list t = context->get_saved_variables();
    const auto call =
        c10::static_intrusive_pointer_cast<CallArgument>(context->saved_data["call"].toCapsule());
    const at::Tensor dout = grads[0].defined() ? grads[0] : at::zeros_like(t[6]);
    const variable_list gradients =
        AttentionBackward::apply(dout, or_none(grads[1]), t[0], t[1], t[2], or_none(t[3]),
                                 or_none(t[4]), or_none(t[5]), t[6], t[7], call);
    std::copy(gradients.begin(), gradients.end(), result.begin());
    if (!t[3].defined()) result[3] = at::Tensor();
    return result;
  }
};

// libtorch refuses functions like these under torch.func's transforms; this says what to do.
void refuse_transforms() {
  const auto& transforms = at::functorch::functorchTLSAccessor();
  if (transforms == nullptr) return;
  try {
    transforms->checkSupportsCppAutogradFunction();
  } catch (const c10::Error&) {
    throw Error(
        "[attention] torch.func's transforms (grad, vjp, vmap …) work on lace.attention of the "
        "Python package where it is not compiled, not on torch.ops.lace.attention nor under "
        "torch.compile");
  }
}

CallPointer call_of(const std::string& pattern, std::optional<double> scale, bool deterministic,
                    OptionalSize max_len, std::optional<double> softcap,
                    std::optional<int64_t> block_size) {
  AttentionOptions options{.scale = scale,
                           .deterministic = deterministic,
                           .softcap = softcap,
                           .block_size = block_size.value_or(0)};
  return c10::make_intrusive<CallArgument>(pattern, options, std::move(max_len));
}

ForwardResults attention_autograd(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const std::string& pattern, std::optional<double> scale,
                                  bool deterministic, const OptionalTensor& sinks,
                                  const OptionalTensor& sequences, OptionalSize max_len,
                                  std::optional<double> softcap, const OptionalTensor& block_mask,
                                  std::optional<int64_t> block_size) {
  refuse_transforms();
  const auto call = call_of(pattern, scale, deterministic, std::move(max_len), softcap, block_size);
  const variable_list results = Attention::apply(q, k, v, sinks, sequences, block_mask, call);
  return {results[0], results[1]};
}

BackwardResults attention_backward_autograd(
    const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
    const at::Tensor& out, const at::Tensor& lse, const std::string& pattern,
    std::optional<double> scale, bool deterministic, const OptionalTensor& sinks,
    const OptionalTensor& sequences, OptionalSize max_len, const OptionalTensor& dlse,
    std::optional<double> softcap, const OptionalTensor& block_mask,
    std::optional<int64_t> block_size) {
  refuse_transforms();
  const auto call = call_of(pattern, scale, deterministic, std::move(max_len), softcap, block_size);
  const variable_list results =
      AttentionBackward::apply(dout, dlse, q, k, v, sinks, sequences, block_mask, out, lse, call);
  return {results[0], results[1], results[2], results[3]};
}

// ---- autocast -----------------------------------------------------------------------------------

// As autocast treats scaled_dot_product_attention: float16, bfloat16 and float32 become the
// autocast dtype; float64 stays.
at::Tensor autocast(const at::Tensor& tensor) {
  const auto device = tensor.device().type();
  return at::autocast::cached_cast(at::autocast::get_autocast_dtype(device), tensor, device);
}

template <c10::DispatchKey kKey>
ForwardResults attention_autocast(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const std::string& pattern, std::optional<double> scale,
                                  bool deterministic, const OptionalTensor& sinks,
                                  const OptionalTensor& sequences, OptionalSize max_len,
                                  std::optional<double> softcap, const OptionalTensor& block_mask,
                                  std::optional<int64_t> block_size) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(kKey);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("lace::attention", "")
                             .typed<decltype(attention_op)>();
  return op.call(autocast(q), autocast(k), autocast(v), pattern, scale, deterministic, sinks,
                 sequences, std::move(max_len), softcap, block_mask, block_size);
}

}  // namespace

}  // namespace ops

std::pair<at::Tensor, at::Tensor> attention_with_lse(const at::Tensor& q, const at::Tensor& k,
                                                     const at::Tensor& v, const Pattern& pattern,
                                                     const AttentionOptions& options) {
  for (const auto& [name, tensor] : {std::pair("q", &q), std::pair("k", &k), std::pair("v", &v)}) {
    LACE_CHECK(tensor->defined(), "[attention] ", name, " is an undefined tensor");
  }
  const auto call = c10::make_intrusive<ops::CallArgument>(pattern, options);
  const bool cast = at::autocast::is_autocast_enabled(q.device().type());
  const auto apply = [&](const at::Tensor& x, const at::Tensor& y, const at::Tensor& z) {
    return ops::Attention::apply(x, y, z, ops::or_none(options.sinks),
                                 ops::or_none(options.sequences), ops::or_none(options.block_mask),
                                 call);
  };
  const auto results =
      cast ? apply(ops::autocast(q), ops::autocast(k), ops::autocast(v)) : apply(q, k, v);
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
      "padded_sequences(SymInt batch, SymInt q_rows, SymInt k_rows, *, Tensor? k_lens=None, "
      "Tensor? q_start=None, Tensor? k_start=None, Tensor? k_first=None, Tensor? k_end=None) -> "
      "Tensor",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "packed_sequences(Tensor cu_seqlens_q, Tensor cu_seqlens_k, *, Tensor? q_start=None) -> "
      "Tensor",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "attention(Tensor q, Tensor k, Tensor v, str pattern, *, float? scale=None, "
      "bool deterministic=False, Tensor? sinks=None, Tensor? sequences=None, SymInt? max_len=None, "
      "float? softcap=None, Tensor? block_mask=None, int? block_size=None) "
      "-> (Tensor out, Tensor lse)",
      {at::Tag::pt2_compliant_tag, at::Tag::needs_exact_strides});
  library.def(
      "attention_backward(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
      "str pattern, *, float? scale=None, bool deterministic=False, Tensor? sinks=None, "
      "Tensor? sequences=None, SymInt? max_len=None, Tensor? dlse=None, float? softcap=None, "
      "Tensor? block_mask=None, int? block_size=None) -> (Tensor dq, Tensor dk, Tensor dv, Tensor "
      "dsinks)",
      {at::Tag::pt2_compliant_tag, at::Tag::needs_exact_strides});
}

// Made of operations that differentiate, compile and run anywhere as they are.
TORCH_LIBRARY_IMPL(lace, CompositeImplicitAutograd, library) {
  library.impl("padded_sequences", ops::padded_sequences_op);
  library.impl("packed_sequences", packed_sequences);
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
