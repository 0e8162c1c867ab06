#include "model/head.h"

#include <optional>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "lace/error.h"

#include "model/layers.h"
#include "model/unchanged.h"
#include "ops/torch_context.h"

namespace lace::model {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct EmbeddingTape final : torch::CustomClassHolder {
  explicit EmbeddingTape(const std::vector<NamedParameter>& tables) : tables(tables) {}
  Unchanged tables;
};
using EmbeddingTapePointer = c10::intrusive_ptr<EmbeddingTape>;

class EmbeddingFunction : public torch::autograd::Function<EmbeddingFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, at::TensorList tables,
                            const at::Tensor& tokens, const at::Tensor& indices,
                            const EmbeddingTapePointer& tape) {
    context->save_for_backward({tokens, indices});
    context->saved_data["tape"] = c10::IValue::make_capsule(tape);
    return embed(tokens, indices, tables.vec());
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const ops::OwnThreads threads;
    const variable_list saved = context->get_saved_variables();
    const auto tape =
        c10::static_intrusive_pointer_cast<EmbeddingTape>(context->saved_data["tape"].toCapsule());
    tape->tables.check(kUntilBackward);
    variable_list result = embed_grad(grads[0].contiguous(), saved[0], saved[1],
                                      tensors_of(tape->tables.parameters()));
    result.resize(result.size() + 3);  // of tokens, indices and the tape
    return result;
  }
};

struct LossTape final : torch::CustomClassHolder {
  explicit LossTape(const Head& head)
      : head(head), parameters({head.norm_weight, head.norm_bias, head.weight}) {}
  Head head;
  Unchanged parameters;
  at::Tensor x, targets, logits, lse;
  Norm norm;
};
using TapePointer = c10::intrusive_ptr<LossTape>;

class LossFunction : public torch::autograd::Function<LossFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& norm_weight, const at::Tensor& norm_bias,
                            const at::Tensor& weight, const at::Tensor& targets,
                            const TapePointer& tape) {
    static_cast<void>(weight);
    const at::Tensor& compute_weight = tape->head.compute_weight;
    tape->norm =
        layer_norm(x, norm_weight, norm_bias, tape->head.eps, compute_weight.scalar_type());
    tape->logits = linear_forward(tape->norm.y, compute_weight, {});
    const CrossEntropy result = cross_entropy(tape->logits, targets);
    tape->x = x.detach();
    tape->targets = targets;
    tape->lse = result.lse;
    context->saved_data["tape"] = c10::IValue::make_capsule(tape);
    return result.nats.mean();
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const ops::OwnThreads threads;
    const auto tape =
        c10::static_intrusive_pointer_cast<LossTape>(context->saved_data["tape"].toCapsule());
    LACE_CHECK(tape->x.defined(), "[model] backward runs once over a loss, got a second run");
    tape->parameters.check(kUntilBackward);
    const double scale = grads[0].item<double>() / static_cast<double>(tape->x.size(0));
    const at::Tensor x = std::exchange(tape->x, {});
    const at::Tensor dlogits =
        cross_entropy_grad(std::exchange(tape->logits, {}), tape->targets, tape->lse, scale);
    const Norm norm = std::exchange(tape->norm, {});
    const at::Tensor dweight = linear_grad_weight(dlogits, norm.y);
    const NormGrads result =
        layer_norm_grad(linear_grad_input(dlogits, tape->head.compute_weight), x, norm,
                        tape->head.norm_weight.tensor.detach(), at::zeros_like(x));
    return {result.x, result.weight, result.bias, dweight, {}, {}};
  }
};

}  // namespace

at::Tensor embedding(const at::Tensor& tokens, const at::Tensor& indices,
                     const std::vector<NamedParameter>& tables) {
  return EmbeddingFunction::apply(at::TensorList(tensors_of(tables)), tokens, indices,
                                  c10::make_intrusive<EmbeddingTape>(tables));
}

at::Tensor head_loss(const at::Tensor& x, const at::Tensor& targets, const Head& head) {
  return LossFunction::apply(x, head.norm_weight.tensor, head.norm_bias.tensor, head.weight.tensor,
                             targets, c10::make_intrusive<LossTape>(head));
}

at::Tensor head_logits(const at::Tensor& x, const Head& head) {
  const at::Tensor y =
      at::layer_norm(x, {x.size(1)}, head.norm_weight.tensor, head.norm_bias.tensor, head.eps);
  return at::GradMode::is_enabled() ? at::mm(y, head.weight.tensor.t())
                                    : linear_forward(y, head.weight.tensor, {});
}

}  // namespace lace::model
