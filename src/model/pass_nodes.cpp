// A pass as a node of autograd.

#include <optional>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "lace/error.h"

#include "model/pass.h"
#include "ops/torch_context.h"

namespace lace::model {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// A pass on its way from forward to backward.
struct PassTape final : torch::CustomClassHolder {
  PassTape(std::shared_ptr<const SparseTransformer::Impl> impl, const at::Tensor& tokens,
           const at::Tensor& keys)
      : model(std::move(impl)),
        parameters(model->arena.parameters()),
        pass(std::in_place, model, tokens, keys, /*keep=*/true) {}

  // Once.
  Pass take() {
    LACE_CHECK(pass.has_value(), "[model] backward runs once over a loss, got a second run");
    parameters.check(kUntilBackward);
    return *std::exchange(pass, std::nullopt);
  }

  std::shared_ptr<const SparseTransformer::Impl> model;
  Unchanged parameters;
  std::optional<Pass> pass;
  at::Tensor y;  // of logits: LN_f(H_N), wide
};
using TapePointer = c10::intrusive_ptr<PassTape>;

TapePointer tape_of(AutogradContext* context) {
  return c10::static_intrusive_pointer_cast<PassTape>(context->saved_data["tape"].toCapsule());
}

Gradients new_gradients(const SparseTransformer::Impl& model) {
  return {model.arena.views(model.arena.zeros()), false};
}

// Gradients of the parameters, then none of the tape.
variable_list with_tape(Gradients gradients) {
  gradients.tensors.emplace_back();
  return std::move(gradients.tensors);
}

class LossFunction : public torch::autograd::Function<LossFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, at::TensorList parameters,
                            const TapePointer& tape) {
    static_cast<void>(parameters);
    context->saved_data["tape"] = c10::IValue::make_capsule(tape);
    return tape->pass->nats().mean();
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const ops::OwnThreads threads;
    const TapePointer tape = tape_of(context);
    Pass pass = tape->take();
    const Gradients gradients = new_gradients(*tape->model);
    const auto symbols = static_cast<double>(pass.hidden().size(0));
    pass.nats_backward(1 / symbols, grads[0].to(at::kDouble), gradients);
    return with_tape(gradients);
  }
};

class LogitsFunction : public torch::autograd::Function<LogitsFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, at::TensorList parameters,
                            const TapePointer& tape) {
    static_cast<void>(parameters);
    context->saved_data["tape"] = c10::IValue::make_capsule(tape);
    tape->y = wide_norm(*tape->model, tape->pass->hidden());
    return linear_forward(tape->y, output_weight(*tape->model), {});
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const ops::OwnThreads threads;
    const TapePointer tape = tape_of(context);
    Pass pass = tape->take();
    const Gradients gradients = new_gradients(*tape->model);
    const at::Tensor dlogits = grads[0].contiguous();
    linear_grad_weight(dlogits, std::exchange(tape->y, {}),
                       gradients.into(tape->model->output_weight()));
    const at::Tensor dy = linear_grad_input(dlogits, output_weight(*tape->model));
    pass.backward(dy.to(tape->model->compute()), gradients);
    return with_tape(gradients);
  }

  static at::Tensor wide_norm(const SparseTransformer::Impl& model, const at::Tensor& hidden) {
    const size_t norm = model.final_norm();
    return at::layer_norm(hidden.to(wide_type(model.compute())), {hidden.size(1)},
                          model.arena.parameter(norm).detach(),
                          model.arena.parameter(norm + 1).detach(), model.config.final_norm_eps);
  }

 private:
  static at::Tensor output_weight(const SparseTransformer::Impl& model) {
    return model.arena.parameter(model.output_weight()).detach();
  }
};

}  // namespace

at::Tensor loss_node(std::shared_ptr<const SparseTransformer::Impl> model, const at::Tensor& tokens,
                     const at::Tensor& keys) {
  return LossFunction::apply(at::TensorList(tensors_of(model->arena.parameters())),
                             c10::make_intrusive<PassTape>(model, tokens, keys));
}

at::Tensor logits_node(std::shared_ptr<const SparseTransformer::Impl> model,
                       const at::Tensor& tokens, const at::Tensor& keys) {
  return LogitsFunction::apply(at::TensorList(tensors_of(model->arena.parameters())),
                               c10::make_intrusive<PassTape>(model, tokens, keys));
}

}  // namespace lace::model
