#pragma once

#include <memory>
#include <optional>

#include "lace/train.h"

#include "train/metrics.h"
#include "train/run_checkpoints.h"
#include "train/run_folder.h"
#include "train/samples.h"

namespace lace::train {

// One sitting of a run: from its start, or where the last sitting ended, to its end or a stop. Of
// several ranks the first alone has the folder; what it decides follows from what all know.
class Sitting {
 public:
  // As train_run.
  Sitting(const Recipe& recipe, const RunOptions& options);
  RunResult train();

 private:
  void note(const std::string& text) const;
  // Whether a GPU may begin the step after the last that was started, before that one's numbers are
  // known: not where something must see the weights in between.
  bool may_run_ahead() const;
  // True if the run has ended with this step. on_step's answer goes to `stopped`; null: it is not
  // asked.
  bool finish_step(bool* stopped = nullptr);
  // Whether the run is to stop after this step: on_step's word, of several ranks what all know.
  bool is_to_stop(const TrainProgress& progress) const;
  // Validates and draws samples if it is time to, and writes the step's metrics. True if the run
  // has ended.
  bool measure(TrainProgress& progress);
  // The same, without writing.
  bool look_at(TrainProgress& progress);
  void add_metrics(TrainProgress& progress);
  void tell_of_spike(const TrainProgress& progress) const;
  void measure_peak();
  void validate();
  void draw_samples();
  // Begins to write what is due after the last step: everything if `whole`, and the best weights if
  // they are new.
  void save(bool whole);
  // Keeps the steps that no checkpoint holds, if that works, before `error` ends the run. On a GPU
  // the exchange that an error of several ranks breaks off has spoilt the weights; where ranks
  // divide the optimiser's state, the others' part of it is not to be had.
  void save_before(const std::exception& error);
  RunResult result(bool finished, double elapsed_s) const;

  const Recipe recipe_;
  const RunOptions options_;
  std::optional<TrainingFolder> folder_;
  const RunFiles files_;
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Samples> samples_;
  std::string about_;                 // run.json, where there is a folder
  double peak_operations_per_s_ = 0;  // of the device, the highest that was measured
  double checkpoint_s_ = 0;  // for which it held up training, until a step's metrics say so
  std::optional<double> validation_;  // the latest
  bool validated_ = false;            // after the last step
  std::optional<double> best_kept_;   // of best.safetensors, or what is being written to it
  bool best_is_new_ = false;          // best_kept_ is yet to be written
  std::unique_ptr<RunCheckpoints> checkpoints_;  // last: its thread uses the others
};

}  // namespace lace::train
