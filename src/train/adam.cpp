#include "train/adam.h"

#include <cmath>

#include <ATen/ATen.h>

#include "core/instruction_set.h"
#include "ops/torch_context.h"
#include "train/adam_lists.h"

namespace lace::train {
namespace {

constexpr int64_t kChunk = 1 << 14;
constexpr int kLanes = 16;  // partial sums, so that the sum's order is fixed and it vectorises

struct Factors {
  double gradient, beta1, beta2, learning_rate, epsilon, decay, ema;
};

template <typename Scalar>
[[gnu::always_inline]] inline double sum_of_squares(const Scalar* g, int64_t count) {
  double lanes[kLanes] = {};
  const auto square = [g](int64_t i) { return static_cast<double>(g[i]) * g[i]; };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int k = 0; k < kLanes; ++k) lanes[k] += square(i + k);
  }
  for (; i < count; ++i) lanes[i % kLanes] += square(i);
  double sum = 0;
  for (double lane : lanes) sum += lane;
  return sum;
}

template <typename Scalar>
[[gnu::always_inline]] inline void update_elements(Scalar* __restrict p, const Scalar* __restrict g,
                                                   Scalar* __restrict m, Scalar* __restrict v,
                                                   int64_t count, const Factors& f) {
  const auto factor = static_cast<Scalar>(f.gradient);
  const auto beta1 = static_cast<Scalar>(f.beta1), one1 = static_cast<Scalar>(1 - f.beta1);
  const auto beta2 = static_cast<Scalar>(f.beta2), one2 = static_cast<Scalar>(1 - f.beta2);
  const auto rate = static_cast<Scalar>(f.learning_rate);
  const auto epsilon = static_cast<Scalar>(f.epsilon), decay = static_cast<Scalar>(f.decay);
  for (int64_t i = 0; i < count; ++i) {
    const Scalar gradient = g[i] * factor;
    const Scalar mean = beta1 * m[i] + one1 * gradient;
    const Scalar square = beta2 * v[i] + one2 * gradient * gradient;
    m[i] = mean;
    v[i] = square;
    p[i] -= rate * (mean / (std::sqrt(square) + epsilon) + decay * p[i]);
  }
}

template <typename Scalar>
void update_ema(Scalar* ema, const Scalar* p, int64_t count, double decay) {
  const auto keep = static_cast<Scalar>(decay), take = static_cast<Scalar>(1 - decay);
  for (int64_t i = 0; i < count; ++i) ema[i] = keep * ema[i] + take * p[i];
}

}  // namespace

Adam::Adam(const OptimizerConfig& config, std::vector<NamedParameter> parameters)
    : config_(config), parameters_(std::move(parameters)) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const at::Tensor& p = parameters_[i].tensor;
    const at::Tensor& first = parameters_.front().tensor;
    LACE_CHECK(p.is_contiguous() && p.device() == first.device() &&
                   p.scalar_type() == first.scalar_type() &&
                   (p.scalar_type() == at::kFloat || p.scalar_type() == at::kDouble),
               "[adam] parameters are contiguous float32 or float64 tensors on one device, ",
               parameters_[i].name, " is not");
    m_.push_back(at::zeros_like(p.detach()));
    v_.push_back(at::zeros_like(p.detach()));
    if (config_.ema > 0) ema_.push_back(p.detach().clone());
    for (int64_t begin = 0; begin < p.numel(); begin += kChunk)
      chunks_.push_back({i, begin, std::min(begin + kChunk, p.numel())});
  }
}

std::vector<at::Tensor> Adam::contiguous_gradients() const {
  std::vector<at::Tensor> gradients;
  for (const NamedParameter& parameter : parameters_) {
    const at::Tensor& g = parameter.tensor.grad();
    LACE_CHECK(g.defined(), "[adam] ", parameter.name, " has no gradient");
    gradients.push_back(g.contiguous());
  }
  return gradients;
}

double Adam::gradient_norm(double scale) const {
  const std::vector<at::Tensor> gradients = contiguous_gradients();
  if (!gradients.front().is_cpu()) {
    return at::stack(at::_foreach_norm(gradients)).to(at::kDouble).norm().item<double>() / scale;
  }
  std::vector<double> sums(chunks_.size());
  const ops::OwnThreads threads;
  run_tasks(ops::current_executor(), static_cast<int64_t>(chunks_.size()), [&](int64_t i, int) {
    const Chunk& chunk = chunks_[static_cast<size_t>(i)];
    const at::Tensor& g = gradients[chunk.tensor];
    const int64_t count = chunk.end - chunk.begin;
    sums[static_cast<size_t>(i)] =
        g.scalar_type() == at::kFloat
            ? run_with_best<sum_of_squares<float>>(g.const_data_ptr<float>() + chunk.begin, count)
            : run_with_best<sum_of_squares<double>>(g.const_data_ptr<double>() + chunk.begin,
                                                    count);
  });
  double sum = 0;
  for (double value : sums) sum += value;
  return std::sqrt(sum) / scale;
}

double Adam::corrected(double learning_rate) const {
  const auto t = static_cast<double>(steps_);
  return learning_rate * std::sqrt(1 - std::pow(config_.beta2, t)) /
         (1 - std::pow(config_.beta1, t));
}

template <typename Scalar>
void Adam::update(double learning_rate, double gradient_factor) {
  const std::vector<at::Tensor> gradients = contiguous_gradients();
  const Factors factors{
      gradient_factor, config_.beta1, config_.beta2, corrected(learning_rate), config_.epsilon, 0,
      config_.ema};
  const ops::OwnThreads threads;
  run_tasks(ops::current_executor(), static_cast<int64_t>(chunks_.size()), [&](int64_t i, int) {
    const Chunk& chunk = chunks_[static_cast<size_t>(i)];
    const at::Tensor& parameter = parameters_[chunk.tensor].tensor;
    Factors own = factors;
    own.decay = parameter.dim() > 1 ? config_.weight_decay : 0.0;
    const int64_t count = chunk.end - chunk.begin;
    Scalar* p = static_cast<Scalar*>(parameter.data_ptr()) + chunk.begin;
    run_with_best<update_elements<Scalar>>(
        p, gradients[chunk.tensor].template const_data_ptr<Scalar>() + chunk.begin,
        m_[chunk.tensor].template data_ptr<Scalar>() + chunk.begin,
        v_[chunk.tensor].template data_ptr<Scalar>() + chunk.begin, count, own);
    if (!ema_.empty()) {
      update_ema(ema_[chunk.tensor].template data_ptr<Scalar>() + chunk.begin, p, count,
                 config_.ema);
    }
  });
}

void Adam::step(double learning_rate, double norm, double scale) {
  ++steps_;
  const double clip =
      config_.clip_norm > 0 && norm > config_.clip_norm ? config_.clip_norm / norm : 1.0;
  const at::Tensor& first = parameters_.front().tensor;
  if (!first.is_cpu()) {
    std::vector<at::Tensor> tensors;
    for (const NamedParameter& parameter : parameters_) tensors.push_back(parameter.tensor);
    update_lists({tensors, contiguous_gradients(), m_, v_, ema_}, config_, corrected(learning_rate),
                 clip / scale);
  } else if (first.scalar_type() == at::kFloat) {
    update<float>(learning_rate, clip / scale);
  } else {
    update<double>(learning_rate, clip / scale);
  }
  // The update went past autograd: tell those who keep copies of the parameters.
  for (const NamedParameter& parameter : parameters_)
    parameter.tensor.unsafeGetTensorImpl()->bump_version();
  for (const NamedParameter& parameter : parameters_) parameter.tensor.mutable_grad().reset();
}

void Adam::zero_non_finite() {
  for (const NamedParameter& parameter : parameters_)
    parameter.tensor.mutable_grad().nan_to_num_(0, 0, 0);
}

std::vector<NamedParameter> Adam::state() const {
  std::vector<NamedParameter> state;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    state.push_back({"m." + parameters_[i].name, m_[i]});
    state.push_back({"v." + parameters_[i].name, v_[i]});
    if (!ema_.empty()) state.push_back({"ema." + parameters_[i].name, ema_[i]});
  }
  return state;
}

}  // namespace lace::train
