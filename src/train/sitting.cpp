#include "train/sitting.h"

#include <chrono>
#include <cmath>
#include <ctime>

#include <nlohmann/json.hpp>

#include "lace/distributed.h"
#include "lace/version.h"

#include "train/machine.h"
#include "train/resume.h"
#include "train/score.h"

namespace lace::train {
namespace {

std::string now_utc() {
  const std::time_t now = std::time(nullptr);
  char text[32];
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

nlohmann::ordered_json description(const Recipe& recipe, const Dataset& data,
                                   const RunOptions& options) {
  nlohmann::ordered_json json = {
      {"started", now_utc()},
      {"recipe", recipe.name},
      {"version", version()},
      {"commit", commit()},
      {"machine", machine(options.device)},
      {"ranks", options.group ? options.group->size() : 1},
      {"seed", {{"model", recipe.model.seed}, {"data", recipe.train.seed}}},
      {"parameters", parameter_count(recipe.model)},
      {"files", data.files},
      {"bytes",
       {{"train", data.train.size()},
        {"validation", data.validation.size()},
        {"test", data.test.size()}}}};
  if (options.step_operations > 0) json["step_operations"] = options.step_operations;
  return json;
}

bool is_due(int64_t every, int64_t step) { return every > 0 && step % every == 0; }

// Adds the time that it lives to `seconds`.
class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds) {}
  ~Stopwatch() {
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double& seconds_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

Sitting::Sitting(const Recipe& recipe, const RunOptions& options)
    : recipe_(recipe), options_(options), files_{options.folder} {
  if (!options.group || options.group->rank() == 0) folder_.emplace(options.folder);
  if (folder_) folder_->check(recipe_, options_.resume);
  const bool resumed = folder_ && files_.holds_run();
  if (resumed) folder_->keep();
  Dataset data = load_data(recipe_, cache_beside(options_.folder));
  if (folder_ && options_.on_data) options_.on_data(data);
  about_ = description(recipe_, data, options_).dump(2) + "\n";
  trainer_ = std::make_unique<Trainer>(recipe_, std::move(data), options_.device, options_.group);
  if (resumed) {
    const auto tell = [this](const std::string& text) { note(text); };
    lace::train::resume(files_, *trainer_, options_.accept_changed_data, tell);
    best_kept_ = best_score(files_, tell);
  }
  trainer_->share_start();
  if (!folder_) return;
  write_file_atomically(files_.description(), about_);
  measure_peak();
  write_file_atomically(files_.recipe(), to_toml(recipe_));
  metrics_ = std::make_unique<Metrics>(files_.folder, trainer_->step());
  if (recipe_.train.sample_every > 0 || std::filesystem::exists(files_.samples()))
    samples_ = std::make_unique<Samples>(files_, trainer_->step());
  checkpoints_ = std::make_unique<RunCheckpoints>(files_, recipe_.train.keep_checkpoints,
                                                  trainer_->step(), [this] { metrics_->sync(); });
}

RunResult Sitting::train() {
  bool finished = trainer_->done(), stopped = false;
  double elapsed_s = 0;
  memory_in_use(options_.device);  // a peak from before the run is none of it
  try {
    while (!finished && !stopped) {
      if (trainer_->unfinished_steps() == 0) trainer_->start_step();
      if (may_run_ahead()) trainer_->start_step();
      finished = finish_step(&stopped);
      while (stopped && trainer_->unfinished_steps() > 0) finish_step();
      if (trainer_->unfinished_steps() > 0) continue;
      save(finished || stopped || is_due(recipe_.train.checkpoint_every, trainer_->step()));
    }
    elapsed_s = trainer_->elapsed_s();  // as the last checkpoint has it
    if (checkpoints_) checkpoints_->finish();
  } catch (const std::exception& error) {
    if (options_.group) options_.group->fail(error.what());  // saving may take its time
    save_before(error);
    throw;
  }
  if (folder_ && trainer_->stopped_early()) {
    note(concat("step ", trainer_->step(), ": the last ", recipe_.train.early_stop,
                " validations were no better than the best: the run ends (train.early_stop)"));
  }
  if (options_.group) options_.group->barrier();
  return result(finished, elapsed_s);
}

void Sitting::note(const std::string& text) const {
  if (options_.on_note) options_.on_note(text);
}

bool Sitting::may_run_ahead() const {
  const TrainConfig& config = recipe_.train;
  const int64_t step = trainer_->step();
  return options_.device.is_cuda() && !trainer_->done() && !is_due(config.validate_every, step) &&
         !is_due(config.checkpoint_every, step) && !is_due(config.sample_every, step);
}

bool Sitting::finish_step(bool* stopped) {
  TrainProgress progress = trainer_->finish_step();
  if (folder_) folder_->keep();
  const bool finished = measure(progress);
  if (checkpoints_) checkpoints_->check();
  if (stopped != nullptr) *stopped = is_to_stop(progress);
  return finished;
}

bool Sitting::is_to_stop(const TrainProgress& progress) const {
  const bool asked = options_.on_step && !options_.on_step(progress);
  if (!options_.group) return asked;
  if (asked) trainer_->ask_to_stop();
  return progress.stop;
}

bool Sitting::measure(TrainProgress& progress) {
  validated_ = false;
  tell_of_spike(progress);
  if (trainer_->unfinished_steps() > 0) {
    add_metrics(progress);
    return false;
  }
  bool finished = false;
  try {
    finished = look_at(progress);
  } catch (const std::exception&) {
    add_metrics(progress);  // the step has been taken, and may still be saved
    throw;
  }
  add_metrics(progress);
  return finished;
}

bool Sitting::look_at(TrainProgress& progress) {
  const auto timed_validate = [&] {
    const Stopwatch watch(progress.validation_s);
    validate();
    measure_peak();
  };
  const bool due = is_due(recipe_.train.validate_every, progress.step);
  if (due) timed_validate();
  const bool finished = trainer_->done();  // by time, perhaps only since the validation
  if (finished && !due) timed_validate();
  if (due || finished) progress.validation_bits_per_byte = validation_;
  if (is_due(recipe_.train.sample_every, progress.step)) {
    const Stopwatch watch(progress.sample_s);
    draw_samples();
  }
  return finished;
}

void Sitting::add_metrics(TrainProgress& progress) {
  if (!folder_) return;
  progress.checkpoint_s = std::exchange(checkpoint_s_, 0);
  progress.memory_bytes = memory_in_use(options_.device);
  if (peak_operations_per_s_ > 0 && progress.step_s > 0)
    progress.share_of_peak = options_.step_operations / progress.step_s / peak_operations_per_s_;
  metrics_->add(progress);
}

void Sitting::tell_of_spike(const TrainProgress& progress) const {
  if (!folder_ || !progress.spike) return;
  constexpr size_t kShown = 8;
  std::string begins;
  for (size_t i = 0; i < std::min(kShown, progress.windows.size()); ++i)
    begins += concat(i > 0 ? ", " : "", progress.windows[i]);
  if (progress.windows.size() > kShown) begins += ", …";
  note(concat("step ", progress.step, ": the loss is ", progress.loss, ", the mean before it ",
              progress.mean_loss, ": windows of the training data from byte ", begins));
}

void Sitting::measure_peak() {
  if (!folder_ || !options_.measure_peak) return;
  constexpr double kWorthTelling = 1.01;
  const double peak = options_.measure_peak();
  if (!(peak > kWorthTelling * peak_operations_per_s_)) return;
  peak_operations_per_s_ = peak;
  auto json = nlohmann::ordered_json::parse(about_);
  json["peak_operations_per_s"] = peak;
  write_file_atomically(files_.description(), json.dump(2) + "\n");
}

void Sitting::validate() {
  validation_ = trainer_->validate();
  validated_ = validation_.has_value();
  if (!validation_ || !folder_) return;
  if (!std::isfinite(*validation_)) {
    note(concat("step ", trainer_->step(), ": the validation is ",
                std::isnan(*validation_) ? "not a number" : "infinite",
                ": the best checkpoint stays as it is"));
  }
  if (!is_better(*validation_, best_kept_)) return;
  best_kept_ = validation_;
  best_is_new_ = true;
}

void Sitting::draw_samples() {
  if (!options_.draw) return;
  const TrainConfig& config = recipe_.train;
  const int64_t bytes = config.sample_bytes > 0 ? config.sample_bytes : recipe_.model.seq_len;
  if (!samples_ && !trainer_->divides_state()) return;
  trainer_->with_validated_weights([&](const SparseTransformer& model) {
    if (!samples_) return;
    for (int64_t i = 0; i < config.sample_count; ++i) {
      const uint64_t seed = static_cast<uint64_t>(i) + 1;
      const std::optional<DrawnSample> sample = options_.draw(model, bytes, seed);
      if (!sample) return;
      samples_->add(trainer_->step(), i, *sample, seed);
    }
  });
}

void Sitting::save(bool whole) {
  const bool collective = trainer_->divides_state() && (whole || validated_);
  if (!collective && !(folder_ && (whole || best_is_new_))) return;
  const Stopwatch watch(checkpoint_s_);
  if (checkpoints_) checkpoints_->finish();  // its memory is the snapshot's
  const auto snapshot = trainer_->snapshot(whole);
  if (!folder_ || !(whole || best_is_new_)) return;
  RunCheckpoints::Parts parts;
  parts.last = whole;
  if (std::exchange(best_is_new_, false)) parts.best = best_kept_;
  checkpoints_->write(snapshot, trainer_->step(), parts);
}

void Sitting::save_before(const std::exception& error) {
  if (!folder_ || trainer_->divides_state()) return;
  if (options_.group && !options_.device.is_cpu()) return;
  try {
    checkpoints_->finish();
  } catch (const std::exception&) {
    // What went wrong with it, if it is not `error` itself, goes wrong again or is over.
  }
  const int64_t saved = checkpoints_->saved_step();
  if (trainer_->step() <= saved) return;
  try {
    while (trainer_->unfinished_steps() > 0) {
      TrainProgress progress = trainer_->finish_step();
      add_metrics(progress);
    }
    RunCheckpoints::Parts parts;
    parts.last = true;
    if (best_is_new_) parts.best = best_kept_;
    checkpoints_->write(trainer_->snapshot(), trainer_->step(), parts);
    checkpoints_->finish();
  } catch (const std::exception& second) {
    throw Error(concat(error.what(), "; and the steps since ", saved, " are lost",
                       std::string_view(second.what()) == error.what() ? "" : ": ",
                       std::string_view(second.what()) == error.what() ? "" : second.what()));
  }
  note(concat("a checkpoint of step ", trainer_->step(), " is saved"));
}

RunResult Sitting::result(bool finished, double elapsed_s) const {
  RunResult result;
  result.steps = trainer_->step();
  result.elapsed_s = elapsed_s;
  result.finished = finished;
  result.stopped_early = trainer_->stopped_early();
  result.tokens = trainer_->bytes_trained();
  if (result.elapsed_s > 0)
    result.tokens_per_s = static_cast<double>(result.tokens) / result.elapsed_s;
  result.validation_bits_per_byte = validation_;
  result.best_validation_bits_per_byte = trainer_->best_validation();
  if (best_kept_ && is_better(*best_kept_, result.best_validation_bits_per_byte))
    result.best_validation_bits_per_byte = best_kept_;
  return result;
}

}  // namespace lace::train
