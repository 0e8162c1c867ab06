#include <chrono>
#include <cmath>
#include <deque>
#include <limits>
#include <numbers>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include "lace/train.h"
#include "lace/version.h"

#include "ops/torch_context.h"
#include "train/adam.h"
#include "train/batch.h"
#include "train/checkpoint.h"
#include "train/data_fingerprint.h"
#include "train/files.h"
#include "train/machine.h"
#include "train/ranks.h"
#include "train/run_folder.h"
#include "train/schedule.h"
#include "train/score.h"
#include "train/step_runner.h"

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
  Dataset data;
  nlohmann::ordered_json fingerprint;  // of the data as they were at the start
  SparseTransformer model;
  train::Ranks ranks;
  train::Adam adam;
  WindowSampler sampler;
  train::StepRunner runner;
  int64_t step = 0;  // started
  // Windows that the run, all ranks of all sittings, had taken before the first step of this one.
  int64_t base_step = 0, base_windows = 0;
  bool asked_to_stop = false;
  double loss_scale;
  std::optional<double> best_validation;
  // What was loaded, until ranks that divide the optimiser's state have it from here.
  std::optional<train::CheckpointFile> loaded;
  double elapsed_before = 0;  // the load, or a step that failed
  double last_step_s = 0;
  bool started = false;
  Clock::time_point start;

  // A step that was started and not finished.
  struct Started {
    double learning_rate, elapsed;
    Clock::time_point start;
  };
  std::deque<Started> unfinished;
  Clock::time_point last_finish;
  double agreed_elapsed = 0;  // what rank 0's clock said at the start of the last finished step,
  double agreed_step_s = 0;   // and how long after the one before

  Impl(const Recipe& r, Dataset d, at::Device device, Group* group)
      : recipe(r),
        data(std::move(d)),
        fingerprint(train::data_fingerprint(data)),
        model(r.model, device),
        ranks(group, r.train),
        adam(r.optimizer, model.impl()->arena, r.model.precision, ranks),
        sampler(data.train, r.model.seq_len, r.train.seed, data.record_bytes > 0),
        runner(recipe, model, adam, ranks,
               [this](int64_t of, std::span<uint8_t> bytes) { read_step(of, bytes); }),
        loss_scale(r.model.precision == Precision::kFloat16 ? train::kLossScaleStart : 1) {}

  double elapsed() const { return elapsed_before + (started ? seconds_since(start) : 0.0); }

  // The time that the schedule goes by, the same on all ranks.
  double schedule_elapsed() const {
    return ranks.size() == 1 ? elapsed() : agreed_elapsed + agreed_step_s;
  }
  double schedule_step_s() const { return ranks.size() == 1 ? last_step_s : agreed_step_s; }

  int64_t windows_before(int64_t of) const {
    return base_windows + (of - base_step) * ranks.shares().windows();
  }

  // Sequences are taken in the sampler's order, step by step, micro-batch by micro-batch.
  void read_step(int64_t of, std::span<uint8_t> bytes) const {
    const auto length = static_cast<size_t>(recipe.model.seq_len);
    for (int64_t i = 0; i < recipe.train.accumulate; ++i) {
      const int64_t first = ranks.shares().micro_batch(windows_before(of), i).first_window;
      for (int64_t b = 0; b < recipe.train.batch; ++b) {
        const auto at = static_cast<size_t>(i * recipe.train.batch + b) * length;
        data.train.bytes.read(sampler.begin(first + b), bytes.subspan(at, length));
      }
    }
  }

  // The run stands before the step of `back` again: neither it nor what was started since has
  // changed anything.
  void go_back(const Started& back) {
    const auto steps = static_cast<int64_t>(unfinished.size());
    step -= steps;
    adam.set_steps(adam.steps() - steps);
    unfinished.clear();
    runner.reset();
    adam.clear_failure();
    set_elapsed(back.elapsed);
  }

  // After the step that found `numbers`, the last that is finished.
  TrainProgress progress(double learning_rate, const train::StepNumbers& numbers) const {
    const int64_t tokens = ranks.shares().windows() * recipe.model.seq_len;
    TrainProgress progress;
    progress.step = step - static_cast<int64_t>(unfinished.size());
    progress.learning_rate = learning_rate;
    progress.loss = numbers.report.loss;
    progress.bits_per_byte = progress.loss / std::numbers::ln2;
    progress.gradient_norm = numbers.state.norm;
    progress.stop = numbers.report.stop;
    progress.tokens_per_s = static_cast<double>(tokens) / last_step_s;
    progress.elapsed_s = elapsed();
    progress.fraction = train::run_fraction(recipe.train, {progress.step, progress.elapsed_s});
    progress.remaining_s =
        progress.fraction > 0 ? progress.elapsed_s * (1 / progress.fraction - 1) : 0.0;
    return progress;
  }

  // The mean over at most train.validate_windows windows. Each rank scores some of the batches; the
  // sum of all is the same as one rank's.
  double validation_bits() const {
    const SwappedWeights mean(model.parameters(), adam.ema());
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
      const std::vector<int64_t> begins(
          windows.begin() + first, windows.begin() + std::min(count, first + recipe.eval.batch));
      nats.back() =
          model.nats(train::read_windows(data.validation.bytes, begins, window, model.device()))
              .sum(at::kDouble)
              .item<double>();
    }
    double sum = 0;
    for (const double part : ranks.join(nats)) sum += part;
    return sum / static_cast<double>(count * window) / std::numbers::ln2;
  }

  // How the data differ from those of the checkpoint at `path`, or that nobody knows; "" if they do
  // not.
  std::string changed_data(const std::string& path, const train::CheckpointState& state) const {
    if (!state.has("data")) return path + " does not say what its data were: they are not compared";
    const std::string difference = train::fingerprint_difference(state.json()["data"], fingerprint);
    return difference.empty() ? "" : "the data are not those of " + path + ": " + difference;
  }

  void set_elapsed(double seconds) {
    elapsed_before = seconds;
    started = false;
  }

  std::vector<NamedParameter> weights() const {
    std::vector<NamedParameter> weights;
    for (const NamedParameter& p : model.parameters())
      weights.push_back({"model." + p.name, p.tensor.detach()});
    return weights;
  }

  std::vector<NamedParameter> optimizer_state() const {
    std::vector<NamedParameter> state;
    for (const NamedParameter& p : adam.saved()) state.push_back({"adam." + p.name, p.tensor});
    return state;
  }

  std::vector<NamedParameter> saved_tensors() const {
    std::vector<NamedParameter> tensors = weights();
    for (const NamedParameter& p : optimizer_state()) tensors.push_back(p);
    return tensors;
  }

  // Ranks that divide the state have theirs of a load only after share_start().
  void check_state_is_shared(std::string_view what) const {
    LACE_CHECK(!loaded,
               "[train] ranks that divide the optimiser's state share what one has loaded ",
               "before ", what, ", got ", what, " before share_start");
  }

  // All ranks' divided state becomes that of the checkpoint that rank 0 has loaded.
  void deal_loaded_state() {
    const auto scope = runner.enter();
    const std::vector<NamedParameter> state = optimizer_state();
    for (size_t i = 0; i < state.size(); ++i) {
      at::Tensor whole;
      if (loaded) {
        whole = at::empty_like(state[i].tensor, at::kCPU);
        loaded->read({{state[i].name, whole}});
      }
      adam.deal(i, whole);
    }
  }
};

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

bool Trainer::done() const {
  const TrainConfig& config = impl_->recipe.train;
  if (config.steps > 0 && impl_->step >= config.steps) return true;
  return config.max_minutes > 0 &&
         impl_->schedule_elapsed() + impl_->schedule_step_s() > 60 * config.max_minutes;
}

void Trainer::start_step() {
  const ops::OwnThreads threads;
  Impl& s = *impl_;
  LACE_CHECK(s.unfinished.size() < 2, "[train] up to 2 steps may be unfinished, got a third");
  s.check_state_is_shared("the next step");
  Impl::Started step;
  step.start = Clock::now();
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
  const auto now = Clock::now();
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
  const ops::OwnThreads threads;
  Impl& s = *impl_;
  s.check_state_is_shared("a validation");
  if (s.data.validation.size() == 0) return std::nullopt;
  const auto scope = s.runner.enter();
  const double bits = s.validation_bits();
  if (train::is_better(bits, s.best_validation)) s.best_validation = bits;
  return bits;
}

std::vector<NamedParameter> Trainer::validated_weights() const {
  const auto scope = impl_->runner.enter();
  std::vector<NamedParameter> weights;
  const std::vector<at::Tensor> mean = impl_->adam.ema();
  for (const NamedParameter& p : impl_->model.parameters())
    weights.push_back({p.name, mean.empty() ? p.tensor.detach() : mean[weights.size()]});
  return weights;
}

void Trainer::save(const std::string& path, const std::string& keep_old_as) const {
  Impl& s = *impl_;
  s.check_state_is_shared("a checkpoint");
  const auto scope = s.runner.enter();
  if (divides_state() && s.ranks.rank() != 0) {
    const size_t count = s.adam.saved().size();
    for (size_t i = 0; i < count; ++i) s.adam.collect(i);
    return;
  }
  nlohmann::ordered_json state = {{"format", 2},
                                  {"step", s.step},
                                  {"optimizer_steps", s.adam.steps()},
                                  {"elapsed_s", s.elapsed()},
                                  {"loss_scale", s.loss_scale},
                                  {"bytes_trained", bytes_trained()},
                                  {"data", s.fingerprint},
                                  {"recipe", s.recipe.name},
                                  {"version", version()},
                                  {"commit", commit()},
                                  {"machine", train::machine(s.model.device())}};
  if (s.best_validation) state["best_validation_bits_per_byte"] = *s.best_validation;
  const size_t weights = s.model.parameters().size();
  train::write_safetensors(path, s.saved_tensors(), {{"lace", state.dump()}}, keep_old_as,
                           [&](size_t place) { return s.adam.collect(place - weights); });
  train::write_file_atomically(train::json_path(path), state.dump(2) + "\n",
                               keep_old_as.empty() ? "" : train::json_path(keep_old_as));
}

std::vector<std::string> Trainer::load(const std::string& path, bool accept_changed_data) {
  Impl& s = *impl_;
  train::CheckpointFile file(path);
  const train::CheckpointState state(file);
  const int64_t step = state.count("step"), optimizer_steps = state.count("optimizer_steps");
  const int64_t windows = state.count("bytes_trained") / s.recipe.model.seq_len;
  const double elapsed = state.number("elapsed_s"), loss_scale = state.number("loss_scale");
  std::optional<double> best;
  constexpr const char* kBest = "best_validation_bits_per_byte";
  if (state.has(kBest)) best = state.number(kBest);

  std::vector<std::string> notes;
  if (!file.has_checksums()) notes.push_back(path + " has no checksums: it is taken as it is");
  const std::string changed = s.changed_data(path, state);
  if (!changed.empty()) {
    if (state.has("data") && !accept_changed_data) throw train::DataChanged("[train] " + changed);
    notes.push_back(changed);
  }
  file.read(s.saved_tensors());
  if (divides_state()) s.loaded = std::move(file);
  s.unfinished.clear();
  s.runner.reset();
  s.adam.clear_failure();
  s.step = s.base_step = step;
  s.base_windows = windows;
  s.adam.set_steps(optimizer_steps);
  s.best_validation = best;
  s.set_elapsed(elapsed);
  s.last_step_s = 0;
  s.loss_scale = loss_scale;
  s.adam.set_loss_scale(loss_scale);
  return notes;
}

void Trainer::share_start() {
  Impl& s = *impl_;
  const double none = std::numeric_limits<double>::infinity();
  std::vector<double> numbers = {static_cast<double>(s.step),
                                 static_cast<double>(s.base_windows),
                                 static_cast<double>(s.adam.steps()),
                                 s.best_validation.value_or(none),
                                 s.elapsed(),
                                 s.loss_scale,
                                 s.loaded ? 1.0 : 0.0};
  s.ranks.share(divides_state() ? s.weights() : s.saved_tensors(), numbers);
  if (numbers[6] != 0) s.deal_loaded_state();
  s.loaded.reset();
  s.step = s.base_step = static_cast<int64_t>(numbers[0]);
  s.base_windows = static_cast<int64_t>(numbers[1]);
  s.adam.set_steps(static_cast<int64_t>(numbers[2]));
  s.best_validation = numbers[3] == none ? std::nullopt : std::optional(numbers[3]);
  s.set_elapsed(numbers[4]);
  s.agreed_elapsed = numbers[4];
  s.loss_scale = numbers[5];
  s.adam.set_loss_scale(s.loss_scale);
}

}  // namespace lace
