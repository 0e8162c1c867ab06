#include <cmath>
#include <numbers>

#include <ATen/ATen.h>

#include "lace/version.h"

#include "ops/torch_context.h"
#include "train/batch.h"
#include "train/data_fingerprint.h"
#include "train/schedule.h"
#include "train/score.h"
#include "train/trainer_impl.h"

namespace lace {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
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

Trainer::Impl::Impl(const Recipe& r, Dataset d, at::Device device, Group* group)
    : recipe(r),
      data(std::move(d)),
      fingerprint(train::data_fingerprint(data)),
      model(r.model, device),
      ranks(group, r.train),
      adam(r.optimizer, model.impl()->arena, r.model.precision, ranks),
      sampler(data.train, r.model.seq_len, r.train.seed, data.record_bytes > 0),
      runner(recipe, model, adam, ranks,
             [this](int64_t of, std::span<uint8_t> bytes) { read_step(of, bytes); }),
      loss_scale(r.model.precision == Precision::kFloat16 ? train::kLossScaleStart : 1),
      losses(r.train.spike) {}

double Trainer::Impl::elapsed() const {
  return elapsed_before + (started ? seconds_since(start) : 0.0);
}

void Trainer::Impl::set_elapsed(double seconds) {
  elapsed_before = seconds;
  started = false;
}

void Trainer::Impl::read_step(int64_t of, std::span<uint8_t> bytes) const {
  const auto length = static_cast<size_t>(recipe.model.seq_len);
  for (int64_t i = 0; i < recipe.train.accumulate; ++i) {
    const int64_t first = ranks.shares().micro_batch(windows_before(of), i).first_window;
    for (int64_t b = 0; b < recipe.train.batch; ++b) {
      const auto at = static_cast<size_t>(i * recipe.train.batch + b) * length;
      data.train.bytes.read(sampler.begin(first + b), bytes.subspan(at, length));
    }
  }
}

std::vector<int64_t> Trainer::Impl::window_begins(int64_t of) const {
  std::vector<int64_t> begins;
  for (int64_t i = windows_before(of); i < windows_before(of + 1); ++i)
    begins.push_back(sampler.begin(i));
  return begins;
}

void Trainer::Impl::go_back(const Started& back) {
  const auto steps = static_cast<int64_t>(unfinished.size());
  step -= steps;
  adam.set_steps(adam.steps() - steps);
  unfinished.clear();
  runner.reset();
  adam.clear_failure();
  set_elapsed(back.elapsed);
}

TrainProgress Trainer::Impl::progress(double learning_rate, const train::StepNumbers& numbers) {
  const int64_t tokens = ranks.shares().windows() * recipe.model.seq_len;
  TrainProgress progress;
  progress.step = step - static_cast<int64_t>(unfinished.size());
  progress.learning_rate = learning_rate;
  progress.loss = numbers.report.loss;
  progress.bits_per_byte = progress.loss / std::numbers::ln2;
  progress.gradient_norm = numbers.state.norm;
  progress.stop = numbers.report.stop;
  progress.step_s = last_step_s;
  progress.tokens_per_s = static_cast<double>(tokens) / last_step_s;
  progress.elapsed_s = elapsed();
  progress.fraction = train::run_fraction(recipe.train, {progress.step, progress.elapsed_s});
  progress.remaining_s =
      progress.fraction > 0 ? progress.elapsed_s * (1 / progress.fraction - 1) : 0.0;
  progress.mean_loss = losses.state().mean;
  progress.spike = losses.add(progress.loss);
  if (progress.spike) progress.windows = window_begins(progress.step - 1);
  return progress;
}

double Trainer::Impl::validation_bits() const {
  const int64_t window = recipe.model.seq_len;
  const std::vector<int64_t> windows =
      spread_windows(data.validation, window, recipe.train.validate_windows);
  const auto count = static_cast<int64_t>(windows.size());
  if (count == 0) return evaluate(model, data.validation, {}).bits_per_byte;
  std::vector<double> nats;
  for (int64_t first = 0; first < count; first += recipe.eval.batch) {
    ranks.check();
    nats.push_back(0);
    if (!ranks.has(first / recipe.eval.batch)) continue;
    const std::vector<int64_t> begins(windows.begin() + first,
                                      windows.begin() + std::min(count, first + recipe.eval.batch));
    nats.back() =
        model.nats(train::read_windows(data.validation.bytes, begins, window, model.device()))
            .sum(at::kDouble)
            .item<double>();
  }
  double sum = 0;
  for (const double part : ranks.join(nats)) sum += part;
  return sum / static_cast<double>(count * window) / std::numbers::ln2;
}

void Trainer::Impl::check_state_is_shared(std::string_view what) const {
  LACE_CHECK(!loaded, "[train] ranks that divide the optimiser's state share what one has loaded ",
             "before ", what, ", got ", what, " before share_start");
}

Trainer::Trainer(const Recipe& recipe, Dataset data, at::Device device, Group* group) {
  recipe.check();
  impl_ = std::make_unique<Impl>(recipe, std::move(data), device, group);
  const train::Ranks& ranks = impl_->ranks;
  ranks.check_same("lace", concat(version(), " ", commit()));
  Recipe same = recipe;
  same.data.forget_places();  // where a host keeps them is its own affair
  ranks.check_same("recipe", to_toml(same));
  ranks.check_same("data", impl_->fingerprint.dump());
}

Trainer::~Trainer() = default;

const Recipe& Trainer::recipe() const { return impl_->recipe; }
SparseTransformer& Trainer::model() { return impl_->model; }
int64_t Trainer::step() const { return impl_->step; }
double Trainer::elapsed_s() const { return impl_->elapsed(); }
bool Trainer::divides_state() const { return impl_->ranks.divides_state(); }
void Trainer::ask_to_stop() { impl_->asked_to_stop = true; }

int64_t Trainer::bytes_trained() const {
  return impl_->windows_before(impl_->step) * impl_->recipe.model.seq_len;
}

std::optional<double> Trainer::best_validation() const { return impl_->best_validation; }

bool Trainer::stopped_early() const {
  const int64_t most = impl_->recipe.train.early_stop;
  return most > 0 && impl_->validations_since_best >= most;
}

bool Trainer::done() const {
  const TrainConfig& config = impl_->recipe.train;
  if (stopped_early() || (config.steps > 0 && impl_->step >= config.steps)) return true;
  return config.max_minutes > 0 &&
         impl_->schedule_elapsed() + impl_->schedule_step_s() > 60 * config.max_minutes;
}

void Trainer::start_step() {
  const ops::OwnThreads threads;
  Impl& s = *impl_;
  LACE_CHECK(s.unfinished.size() < 2, "[train] up to 2 steps may be unfinished, got a third");
  s.check_state_is_shared("the next step");
  Impl::Started step;
  step.start = Impl::Clock::now();
  step.elapsed = s.elapsed();
  if (!s.started) {
    s.start = step.start;
    s.started = true;
  }
  const double schedule_elapsed = s.ranks.size() == 1 ? step.elapsed : s.schedule_elapsed();
  step.learning_rate = train::learning_rate(s.recipe, {s.step, schedule_elapsed});
  try {
    s.runner.start(s.step, step.learning_rate,
                   {.stop = s.asked_to_stop, .elapsed_s = step.elapsed});
  } catch (...) {
    if (s.unfinished.empty()) s.set_elapsed(step.elapsed);
    throw;
  }
  s.unfinished.push_back(step);
  ++s.step;
}

TrainProgress Trainer::finish_step() {
  Impl& s = *impl_;
  LACE_CHECK(!s.unfinished.empty(), "[train] a step must be started before it is finished, got ",
             "none");
  const Impl::Started started = s.unfinished.front();
  const train::StepNumbers numbers = s.runner.finish();
  if (numbers.state.failed != 0) {
    s.go_back(started);
    throw Error(concat("[train] the gradients' norm is ", numbers.state.norm,
                       ": lower the learning rate or clip harder"));
  }
  s.unfinished.pop_front();
  s.runner.prepare_next();
  const auto now = Impl::Clock::now();
  s.last_step_s =
      std::chrono::duration<double>(now - std::max(started.start, s.last_finish)).count();
  s.last_finish = now;
  s.loss_scale = numbers.state.loss_scale;
  s.agreed_step_s = numbers.report.elapsed_s - s.agreed_elapsed;
  s.agreed_elapsed = numbers.report.elapsed_s;
  return s.progress(started.learning_rate, numbers);
}

int64_t Trainer::unfinished_steps() const { return static_cast<int64_t>(impl_->unfinished.size()); }

TrainProgress Trainer::take_step() {
  LACE_CHECK(unfinished_steps() == 0, "[train] steps that were started must be finished first, ",
             "got ", unfinished_steps());
  start_step();
  return finish_step();
}

std::optional<double> Trainer::validate() {
  Impl& s = *impl_;
  if (s.data.validation.size() == 0) return std::nullopt;
  double bits = 0;
  with_validated_weights([&](const SparseTransformer&) { bits = s.validation_bits(); });
  const bool better = train::is_better(bits, s.best_validation);
  if (better) s.best_validation = bits;
  s.validations_since_best = better ? 0 : s.validations_since_best + 1;
  return bits;
}

void Trainer::with_validated_weights(const std::function<void(const SparseTransformer&)>& use) {
  const ops::OwnThreads threads;
  Impl& s = *impl_;
  s.check_state_is_shared("a validation");
  const auto scope = s.runner.enter();
  const SwappedWeights mean(s.model.parameters(), s.adam.ema());
  use(s.model);
}

}  // namespace lace
