#include <algorithm>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <memory>
#include <optional>

#include "lace/distributed.h"
#include "lace/train.h"
#include "lace/version.h"

#include "train/checkpoint.h"
#include "train/data_fingerprint.h"
#include "train/files.h"
#include "train/machine.h"
#include "train/metrics.h"
#include "train/run_folder.h"
#include "train/score.h"

namespace lace {
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
  return {{"started", now_utc()},
          {"recipe", recipe.name},
          {"version", version()},
          {"commit", commit()},
          {"machine", train::machine(options.device)},
          {"ranks", options.group ? options.group->size() : 1},
          {"seed", {{"model", recipe.model.seed}, {"data", recipe.train.seed}}},
          {"parameters", parameter_count(recipe.model)},
          {"files", data.files},
          {"bytes",
           {{"train", data.train.size()},
            {"validation", data.validation.size()},
            {"test", data.test.size()}}}};
}

bool is_due(int64_t every, int64_t step) { return every > 0 && step % every == 0; }

// One sitting of a run: from its start, or where the last sitting ended, to its end or a stop. Of
// several ranks the first alone has the folder; what it decides follows from what all know.
class Sitting {
 public:
  Sitting(const Recipe& recipe, const RunOptions& options)
      : recipe_(recipe), options_(options), files_{options.folder} {
    if (!options.group || options.group->rank() == 0) folder_.emplace(options.folder);
    if (folder_) folder_->check(recipe_, options_.resume);
    const bool resumed = folder_ && files_.holds_run();
    if (resumed) folder_->keep();
    Dataset data = load_data(recipe_, cache_beside(options_.folder));
    if (folder_ && options_.on_data) options_.on_data(data);
    const std::string about = description(recipe_, data, options_).dump(2) + "\n";
    trainer_ = std::make_unique<Trainer>(recipe_, std::move(data), options_.device, options_.group);
    if (resumed) load();
    trainer_->share_start();
    saved_step_ = trainer_->step();
    if (!folder_) return;
    train::write_file_atomically(files_.description(), about);
    train::write_file_atomically(files_.recipe(), to_toml(recipe_));
    metrics_ = std::make_unique<train::Metrics>(files_.metrics(), trainer_->step());
  }

  RunResult train() {
    bool finished = trainer_->done(), stopped = false;
    while (!finished && !stopped) {
      try {
        if (trainer_->unfinished_steps() == 0) trainer_->start_step();
        if (may_run_ahead()) trainer_->start_step();
        finished = finish_step(&stopped);
        while (stopped && trainer_->unfinished_steps() > 0) finish_step();
      } catch (const std::exception& error) {
        if (options_.group) options_.group->fail(error.what());  // saving may take its time
        save_before(error);
        throw;
      }
      if (trainer_->unfinished_steps() == 0 &&
          is_due(recipe_.train.checkpoint_every, trainer_->step())) {
        save();
      }
    }
    if (trainer_->step() > saved_step_) save();
    if (options_.group) options_.group->barrier();
    return result(finished);
  }

 private:
  void note(const std::string& text) const {
    if (options_.on_note) options_.on_note(text);
  }

  // Whether a GPU may begin the step after the last that was started, before that one's numbers are
  // known: not where something must see the weights in between.
  bool may_run_ahead() const {
    const TrainConfig& config = recipe_.train;
    const int64_t step = trainer_->step();
    return options_.device.is_cuda() && !trainer_->done() && !is_due(config.validate_every, step) &&
           !is_due(config.checkpoint_every, step);
  }

  // True if the run has ended with this step. on_step's answer goes to `stopped`; null: it is not
  // asked.
  bool finish_step(bool* stopped = nullptr) {
    TrainProgress progress = trainer_->finish_step();
    if (folder_) folder_->keep();
    const bool finished = measure(progress);
    if (stopped != nullptr) *stopped = is_to_stop(progress);
    return finished;
  }

  // Whether the run is to stop after this step: on_step's word, of several ranks what all know.
  bool is_to_stop(const TrainProgress& progress) const {
    const bool asked = options_.on_step && !options_.on_step(progress);
    if (!options_.group) return asked;
    if (asked) trainer_->ask_to_stop();
    return progress.stop;
  }

  // Goes on from the last checkpoint, or the one before it if that is damaged.
  void load() {
    const std::string last = files_.checkpoint("last");
    if (!files_.has("last") && !files_.has("previous")) {
      note("there is no checkpoint yet: the run begins anew");
      std::filesystem::remove(files_.checkpoint("best"));
      return;
    }
    try {
      LACE_CHECK(files_.has("last"), "[train] ", last, " is missing");
      load(last);
    } catch (const train::DataChanged&) {
      throw;
    } catch (const Error& error) {
      LACE_CHECK(files_.has("previous"), error.what(), "; there is no checkpoint before it");
      note(error.what());
      load_previous(error);
    }
    note(concat("goes on after step ", trainer_->step()));
    read_best();
  }

  // Goes on from the checkpoint before the one that `error` tells of.
  void load_previous(const Error& error) {
    try {
      load(files_.checkpoint("previous"));
    } catch (const train::DataChanged&) {
      throw;
    } catch (const Error& second) {
      throw Error(concat(error.what(), "; and the checkpoint before it: ", second.what()));
    }
    set_aside_last();
  }

  void load(const std::string& path) {
    try {
      for (const std::string& text : trainer_->load(path, options_.accept_changed_data)) note(text);
    } catch (const train::DataChanged& error) {
      throw train::DataChanged(
          concat(error.what(), "; to go on with them all the same: --accept-changed-data"));
    }
  }

  // So that the next checkpoint does not push out the one that is sound.
  void set_aside_last() const {
    const std::string last = files_.checkpoint("last"), kept = files_.checkpoint("damaged");
    for (const auto& [from, to] :
         {std::pair(last, kept), {train::json_path(last), train::json_path(kept)}}) {
      if (std::filesystem::exists(from)) std::filesystem::rename(from, to);
    }
    if (std::filesystem::exists(kept)) note("the damaged checkpoint is kept as " + kept);
  }

  // What the next validation has to beat: the score of the weights in best.safetensors.
  void read_best() {
    const std::string path = files_.checkpoint("best");
    if (!files_.has("best")) return;
    try {
      train::CheckpointFile file(path);
      best_kept_ = train::CheckpointState(file).number("validation_bits_per_byte");
      file.verify();
    } catch (const Error& error) {
      best_kept_.reset();
      note(concat(error.what(), "; the next validation takes its place"));
    }
  }

  // Validates if it is time to, and writes the step's metrics. True if the run has ended.
  bool measure(TrainProgress& progress) {
    if (trainer_->unfinished_steps() > 0) {
      if (folder_) metrics_->add(progress);
      return false;
    }
    const bool due = is_due(recipe_.train.validate_every, progress.step);
    if (due) validate();
    const bool finished = trainer_->done();  // by time, perhaps only since the validation
    if (finished && !due) validate();
    if (due || finished) progress.validation_bits_per_byte = validation_;
    if (folder_) metrics_->add(progress);
    return finished;
  }

  void validate() {
    validation_ = trainer_->validate();
    if (!validation_) return;
    const std::vector<NamedParameter> weights = trainer_->validated_weights();
    if (!folder_) return;
    if (!std::isfinite(*validation_)) {
      note(concat("step ", trainer_->step(), ": the validation is ",
                  std::isnan(*validation_) ? "not a number" : "infinite",
                  ": the best checkpoint stays as it is"));
    }
    if (!train::is_better(*validation_, best_kept_)) return;
    save_best(*validation_, weights);
    best_kept_ = validation_;
  }

  // The weights that were validated, alone.
  void save_best(double validation, const std::vector<NamedParameter>& validated) const {
    std::vector<NamedParameter> weights;
    for (const NamedParameter& p : validated) weights.push_back({"model." + p.name, p.tensor});
    const nlohmann::ordered_json state = {{"format", 2},
                                          {"step", trainer_->step()},
                                          {"validation_bits_per_byte", validation},
                                          {"version", version()},
                                          {"commit", commit()},
                                          {"machine", train::machine(options_.device)}};
    const std::string path = files_.checkpoint("best");
    train::write_safetensors(path, weights, {{"lace", state.dump()}});
    train::write_file_atomically(train::json_path(path), state.dump(2) + "\n");
  }

  void save() {
    if (!folder_ && !trainer_->divides_state()) return;
    if (folder_) metrics_->sync();
    trainer_->save(files_.checkpoint("last"), files_.checkpoint("previous"));
    saved_step_ = trainer_->step();
  }

  // Keeps the steps that no checkpoint holds, if that works, before `error` ends the run. On a GPU
  // the exchange that an error of several ranks breaks off has spoilt the weights; where ranks
  // divide the optimiser's state, the others' part of it is not to be had.
  void save_before(const std::exception& error) {
    if (!folder_ || trainer_->step() <= saved_step_ || trainer_->divides_state()) return;
    if (options_.group && !options_.device.is_cpu()) return;
    try {
      while (trainer_->unfinished_steps() > 0) metrics_->add(trainer_->finish_step());
      trainer_->save(files_.checkpoint("last"), files_.checkpoint("previous"));
    } catch (const std::exception& second) {
      throw Error(concat(error.what(), "; and the steps since ", saved_step_,
                         " are lost: ", second.what()));
    }
    note(concat("a checkpoint of step ", trainer_->step(), " is saved"));
  }

  RunResult result(bool finished) const {
    RunResult result;
    result.steps = trainer_->step();
    result.elapsed_s = trainer_->elapsed_s();
    result.finished = finished;
    result.tokens = trainer_->bytes_trained();
    if (result.elapsed_s > 0)
      result.tokens_per_s = static_cast<double>(result.tokens) / result.elapsed_s;
    result.validation_bits_per_byte = validation_;
    result.best_validation_bits_per_byte = trainer_->best_validation();
    if (best_kept_ && train::is_better(*best_kept_, result.best_validation_bits_per_byte))
      result.best_validation_bits_per_byte = best_kept_;
    return result;
  }

  const Recipe recipe_;
  const RunOptions options_;
  std::optional<train::TrainingFolder> folder_;
  const train::RunFiles files_;
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<train::Metrics> metrics_;
  int64_t saved_step_ = 0;
  std::optional<double> validation_;  // the latest
  std::optional<double> best_kept_;   // of best.safetensors
};

}  // namespace

RunResult train_run(const Recipe& recipe, const RunOptions& options) {
  recipe.check();
  try {
    return Sitting(recipe, options).train();
  } catch (const std::exception& error) {
    if (options.group) options.group->fail(error.what());
    throw;
  }
}

}  // namespace lace
