#include "train/adam.h"

#include <cmath>
#include <cstddef>

#include <ATen/ATen.h>

#include "ops/attention_arguments.h"
#include "ops/torch_context.h"

namespace lace::train {

LossScaling loss_scaling(Precision precision) {
  constexpr double kGrowth = 1.0003466, kFloor = 1024;
  return {precision == Precision::kFloat16, kGrowth, kFloor};
}

Adam::Adam(const OptimizerConfig& config, model::ParameterArena& arena, Precision precision)
    : config_(config),
      arena_(arena),
      scaling_(loss_scaling(precision)),
      gradients_(arena.zeros()),
      m_(arena.zeros()),
      v_(arena.zeros()),
      gradient_views_(arena.views(gradients_)) {
  const at::NoGradGuard no_grad;
  if (config_.ema > 0) {
    ema_ = arena.values().clone();
    ema_views_ = arena.views(ema_);
  }
  const auto options = arena.values().options();
  rate_ = at::zeros({1}, options.dtype(at::kDouble));
  state_ = at::zeros({static_cast<int64_t>(sizeof(StepState))}, options.dtype(at::kByte));
  loss_scale_ = state_.view(at::kDouble)[offsetof(StepState, loss_scale) / sizeof(double)];
  set_loss_scale(scaling_.on ? kLossScaleStart : 1);
}

double Adam::next_rate(double learning_rate) const {
  const auto t = static_cast<double>(steps_ + 1);
  return learning_rate * std::sqrt(1 - std::pow(config_.beta2, t)) /
         (1 - std::pow(config_.beta1, t));
}

void Adam::run() {
  AdamArgs args;
  args.count = arena_.size();
  args.decayed = arena_.decayed();
  args.wide = ops::to_dtype("adam", gradients_.scalar_type());
  args.values = arena_.values().mutable_data_ptr();
  args.gradients = gradients_.const_data_ptr();
  args.m = m_.mutable_data_ptr();
  args.v = v_.mutable_data_ptr();
  if (ema_.defined()) args.ema = ema_.mutable_data_ptr();
  if (arena_.copies().defined()) {
    args.copies = arena_.copies().mutable_data_ptr();
    args.compute = ops::to_dtype("adam", arena_.copies().scalar_type());
  }
  args.beta1 = config_.beta1;
  args.beta2 = config_.beta2;
  args.epsilon = config_.epsilon;
  args.weight_decay = config_.weight_decay;
  args.ema_decay = config_.ema;
  args.clip_norm = config_.clip_norm;
  args.scaling = scaling_;
  args.rate = rate_.const_data_ptr<double>();
  args.state = static_cast<StepState*>(state_.mutable_data_ptr());

  const ops::OwnThreads threads;
  const bool on_cpu = gradients_.is_cpu();
  const ElementwiseKernels& kernels = elementwise_kernels(on_cpu ? Device::kCpu : Device::kCuda);
  const Context context = ops::make_torch_context(gradients_.device(), false);
  kernels.adam_norm(context, args);
  kernels.adam_step(context, args);
}

void Adam::advance() {
  ++steps_;
  arena_.values_changed();
}

void Adam::clear_failure() {
  state_.view(at::kLong)[offsetof(StepState, failed) / sizeof(int64_t)].fill_(0);
}

void Adam::set_loss_scale(double scale) { loss_scale_.fill_(scale); }

std::vector<NamedParameter> Adam::saved() const {
  std::vector<NamedParameter> saved;
  const auto& parameters = arena_.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    saved.push_back({"m." + parameters[i].name, arena_.view(m_, i)});
    saved.push_back({"v." + parameters[i].name, arena_.view(v_, i)});
    if (ema_.defined()) saved.push_back({"ema." + parameters[i].name, ema_views_[i]});
  }
  return saved;
}

}  // namespace lace::train
