#include "train/adam.h"

#include <algorithm>
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

Adam::Adam(const OptimizerConfig& config, model::ParameterArena& arena, Precision precision,
           const Ranks& ranks)
    : config_(config),
      arena_(arena),
      ranks_(ranks),
      share_(ranks.state_share(arena.size())),
      scaling_(loss_scaling(precision)),
      gradients_(arena.zeros()),
      m_(at::zeros({share_.end - share_.begin}, arena.values().options())),
      v_(at::zeros_like(m_)),
      gradient_views_(arena.views(gradients_)) {
  const at::NoGradGuard no_grad;
  if (config_.ema > 0) ema_ = arena.values().narrow(0, share_.begin, m_.numel()).clone();
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

AdamArgs Adam::arguments() const {
  AdamArgs args;
  args.count = arena_.size();
  args.decayed = arena_.decayed();
  args.wide = ops::to_dtype("adam", gradients_.scalar_type());
  args.gradients = gradients_.const_data_ptr();
  args.beta1 = config_.beta1;
  args.beta2 = config_.beta2;
  args.epsilon = config_.epsilon;
  args.weight_decay = config_.weight_decay;
  args.ema_decay = config_.ema;
  args.clip_norm = config_.clip_norm;
  args.scaling = scaling_;
  args.rate = rate_.const_data_ptr<double>();
  args.state = static_cast<StepState*>(state_.mutable_data_ptr());
  return args;
}

void Adam::run() {
  const ops::OwnThreads threads;
  const bool on_cpu = gradients_.is_cpu();
  const ElementwiseKernels& kernels = elementwise_kernels(on_cpu ? Device::kCpu : Device::kCuda);
  const Context context = ops::make_torch_context(gradients_.device(), false);
  AdamArgs args = arguments();
  kernels.adam_norm(context, args);  // of all gradients

  const int64_t count = m_.numel();
  args.count = count;
  args.decayed = std::clamp<int64_t>(arena_.decayed() - share_.begin, 0, count);
  const auto own = [&](const at::Tensor& whole) { return whole.narrow(0, share_.begin, count); };
  args.gradients = own(gradients_).const_data_ptr();
  args.values = own(arena_.values()).mutable_data_ptr();
  args.m = m_.mutable_data_ptr();
  args.v = v_.mutable_data_ptr();
  if (ema_.defined()) args.ema = ema_.mutable_data_ptr();
  if (arena_.copies().defined()) {
    args.copies = own(arena_.copies()).mutable_data_ptr();
    args.compute = ops::to_dtype("adam", arena_.copies().scalar_type());
  }
  kernels.adam_step(context, args);
  if (!ranks_.divides_state()) return;
  ranks_.gather(arena_.values());
  arena_.round_values(0, share_.begin);
  arena_.round_values(share_.end, arena_.size());
}

void Adam::advance() {
  ++steps_;
  arena_.values_changed();
}

void Adam::clear_failure() {
  state_.view(at::kLong)[offsetof(StepState, failed) / sizeof(int64_t)].fill_(0);
}

void Adam::set_loss_scale(double scale) { loss_scale_.fill_(scale); }

std::vector<Adam::Array> Adam::arrays() const {
  std::vector<Array> arrays = {{"m.", m_}, {"v.", v_}};
  if (ema_.defined()) arrays.push_back({"ema.", ema_});
  return arrays;
}

distributed::Range Adam::place(size_t parameter) const {
  const int64_t begin = arena_.begin(parameter);
  return {begin, begin + arena_.parameter(parameter).numel()};
}

std::vector<NamedParameter> Adam::saved() const {
  std::vector<NamedParameter> saved;
  const auto& parameters = arena_.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    const auto shape_alone = parameters[i].tensor.options().device(at::kMeta);
    for (const Array& array : arrays()) {
      saved.push_back({array.prefix + parameters[i].name,
                       ranks_.divides_state() ? at::empty(parameters[i].tensor.sizes(), shape_alone)
                                              : arena_.view(array.own, i)});
    }
  }
  return saved;
}

at::Tensor Adam::collect(size_t index) const {
  const std::vector<Array> all = arrays();
  const size_t parameter = index / all.size();
  const at::Tensor whole =
      ranks_.collect(all[index % all.size()].own, arena_.size(), place(parameter));
  if (ranks_.rank() == 0) ranks_.wait(whole);
  return whole.view(arena_.parameter(parameter).sizes());
}

void Adam::deal(size_t index, const at::Tensor& whole) {
  const std::vector<Array> all = arrays();
  const at::Tensor& own = all[index % all.size()].own;
  const distributed::Range range = place(index / all.size());
  const at::Tensor values = ranks_.rank() == 0
                                ? whole.view({-1}).to(own.device())
                                : at::empty({range.end - range.begin}, own.options());
  ranks_.deal(values, own, arena_.size(), range);
}

std::vector<at::Tensor> Adam::ema() const {
  if (!ema_.defined()) return {};
  if (!ranks_.divides_state()) return arena_.views(ema_);
  const at::Tensor whole = at::empty_like(arena_.values());
  whole.narrow(0, share_.begin, ema_.numel()).copy_(ema_);
  ranks_.gather(whole);
  ranks_.wait(whole);
  return arena_.views(whole);
}

}  // namespace lace::train
