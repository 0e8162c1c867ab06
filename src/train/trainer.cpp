#include <chrono>
#include <cmath>
#include <numbers>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include "lace/train.h"
#include "lace/version.h"

#include "ops/torch_context.h"
#include "train/adam.h"
#include "train/batch.h"
#include "train/checkpoint.h"
#include "train/loss_scale.h"
#include "train/run_folder.h"
#include "train/schedule.h"

namespace lace {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Puts other values into the parameters for a while.
class SwappedWeights {
 public:
  SwappedWeights(const std::vector<NamedParameter>& parameters,
                 const std::vector<at::Tensor>& values)
      : parameters_(parameters) {
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < values.size(); ++i) {
      own_.push_back(parameters_[i].tensor.detach().clone());
      parameters_[i].tensor.copy_(values[i]);
    }
  }
  ~SwappedWeights() {
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < own_.size(); ++i) parameters_[i].tensor.copy_(own_[i]);
  }
  SwappedWeights(const SwappedWeights&) = delete;
  SwappedWeights& operator=(const SwappedWeights&) = delete;

 private:
  const std::vector<NamedParameter>& parameters_;
  std::vector<at::Tensor> own_;
};

}  // namespace

struct Trainer::Impl {
  Recipe recipe;
  TextData data;
  SparseTransformer model;
  train::Adam adam;
  WindowSampler sampler;
  train::LossScale loss_scale;
  int64_t step = 0;
  double elapsed_before = 0;  // the load
  double last_step_s = 0;
  bool started = false;
  Clock::time_point start;

  Impl(const Recipe& r, TextData d, at::Device device)
      : recipe(r),
        data(std::move(d)),
        model(r.model, device),
        adam(r.optimizer, model.parameters()),
        sampler(data.train.size(), r.model.seq_len, r.train.seed, r.data.record_bytes > 0) {}

  double elapsed() const { return elapsed_before + (started ? seconds_since(start) : 0.0); }

  train::LossScale* scale() {
    return recipe.model.precision == Precision::kFloat16 ? &loss_scale : nullptr;
  }

  // Sequences are taken in the sampler's order, step by step, micro-batch by micro-batch.
  at::Tensor batch(int64_t micro_batch) {
    const int64_t size = recipe.train.batch;
    const int64_t first = (step * recipe.train.accumulate + micro_batch) * size;
    std::vector<int64_t> begins;
    for (int64_t i = 0; i < size; ++i) begins.push_back(sampler.begin(first + i));
    return train::read_windows(data.train, begins, recipe.model.seq_len, model.device());
  }

  // Gradients of the mean loss over the step's micro-batches, times the loss scale. The mean loss.
  double accumulate_gradients() {
    const int64_t count = recipe.train.accumulate;
    const double factor = (scale() ? scale()->value : 1.0) / static_cast<double>(count);
    double loss = 0;
    for (int64_t i = 0; i < count; ++i) {
      const at::Tensor part =
          model.loss(batch(i), {.training = true, .step = step, .micro_batch = i});
      (factor == 1.0 ? part : part * factor).backward();
      loss += part.item<double>() / static_cast<double>(count);
    }
    return loss;
  }

  std::vector<NamedParameter> saved_tensors() const {
    std::vector<NamedParameter> tensors;
    for (const NamedParameter& p : model.parameters())
      tensors.push_back({"model." + p.name, p.tensor.detach()});
    for (const NamedParameter& p : adam.state()) tensors.push_back({"adam." + p.name, p.tensor});
    return tensors;
  }
};

Trainer::Trainer(const Recipe& recipe, TextData data, at::Device device) {
  recipe.check();
  impl_ = std::make_unique<Impl>(recipe, std::move(data), device);
}

Trainer::~Trainer() = default;

const Recipe& Trainer::recipe() const { return impl_->recipe; }
SparseTransformer& Trainer::model() { return impl_->model; }
int64_t Trainer::step() const { return impl_->step; }
double Trainer::elapsed_s() const { return impl_->elapsed(); }

bool Trainer::done() const {
  const TrainConfig& config = impl_->recipe.train;
  if (config.steps > 0 && impl_->step >= config.steps) return true;
  return config.max_minutes > 0 && impl_->elapsed() + impl_->last_step_s > 60 * config.max_minutes;
}

TrainProgress Trainer::take_step() {
  const ops::OwnThreads threads;
  Impl& s = *impl_;
  const TrainConfig& config = s.recipe.train;
  const auto step_start = Clock::now();
  if (!s.started) {
    s.start = step_start;
    s.started = true;
  }
  TrainProgress progress;
  progress.learning_rate = train::learning_rate(s.recipe, {s.step, s.elapsed()});
  progress.loss = s.accumulate_gradients();
  progress.gradient_norm = train::apply_gradients(s.adam, s.scale(), progress.learning_rate);
  ++s.step;
  s.last_step_s = seconds_since(step_start);

  const int64_t tokens = config.batch * config.accumulate * s.recipe.model.seq_len;
  progress.step = s.step;
  progress.bits_per_byte = progress.loss / std::numbers::ln2;
  progress.tokens_per_s = static_cast<double>(tokens) / s.last_step_s;
  progress.elapsed_s = s.elapsed();
  progress.fraction = train::run_fraction(config, {s.step, progress.elapsed_s});
  progress.remaining_s =
      progress.fraction > 0 ? progress.elapsed_s * (1 / progress.fraction - 1) : 0.0;
  return progress;
}

std::optional<double> Trainer::validate() {
  const ops::OwnThreads threads;
  Impl& s = *impl_;
  const ByteStream& stream = s.data.validation;
  if (stream.size() == 0) return std::nullopt;
  const SwappedWeights mean(s.model.parameters(), s.adam.ema());
  const int64_t window = s.recipe.model.seq_len;
  if (stream.size() < window) return evaluate(s.model, stream, {}).bits_per_byte;
  const int64_t available = stream.size() / window;
  const int64_t count = std::min(available, s.recipe.train.validate_windows);
  double nats = 0;
  for (int64_t first = 0; first < count;) {
    std::vector<int64_t> begins;
    for (int64_t i = first; i < count && i < first + s.recipe.eval.batch; ++i)
      begins.push_back(i * available / count * window);
    nats += s.model.nats(train::read_windows(stream, begins, window, s.model.device()))
                .sum(at::kDouble)
                .item<double>();
    first += static_cast<int64_t>(begins.size());
  }
  return nats / static_cast<double>(count * window) / std::numbers::ln2;
}

std::vector<NamedParameter> Trainer::validated_weights() const {
  std::vector<NamedParameter> weights;
  const std::vector<at::Tensor>& mean = impl_->adam.ema();
  for (const NamedParameter& p : impl_->model.parameters())
    weights.push_back({p.name, mean.empty() ? p.tensor.detach() : mean[weights.size()]});
  return weights;
}

void Trainer::save(const std::string& path) const {
  const Impl& s = *impl_;
  const nlohmann::ordered_json state = {
      {"format", 1},
      {"step", s.step},
      {"optimizer_steps", s.adam.steps()},
      {"elapsed_s", s.elapsed()},
      {"loss_scale", s.loss_scale.value},
      {"bytes_trained",
       s.step * s.recipe.train.batch * s.recipe.train.accumulate * s.recipe.model.seq_len},
      {"recipe", s.recipe.name},
      {"version", version()},
      {"commit", commit()},
      {"machine", train::machine(s.model.device())}};
  train::write_safetensors(path, s.saved_tensors(), {{"lace", state.dump()}});
  train::write_file_atomically(train::json_path(path), state.dump(2) + "\n");
}

void Trainer::load(const std::string& path) {
  Impl& s = *impl_;
  const auto state =
      train::checkpoint_state(train::read_safetensors(path, s.saved_tensors()), path);
  s.step = state.at("step").get<int64_t>();
  s.adam.set_steps(state.at("optimizer_steps").get<int64_t>());
  s.elapsed_before = state.at("elapsed_s").get<double>();
  s.loss_scale.value = state.at("loss_scale").get<double>();
  s.started = false;
}

}  // namespace lace
