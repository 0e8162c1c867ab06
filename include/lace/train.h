#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lace/data.h"
#include "lace/evaluate.h"
#include "lace/recipe.h"

namespace lace {

class Group;  // lace/distributed.h
namespace train {
class Snapshot;  // src/train/snapshot.h
}  // namespace train

// The bytes that a recipe's [data] names. What its files unpack or decode to is kept in its
// data.cache, else in `cache`. Throws lace::Error as load_text, load_images and load_audio do, and
// if the recipe names no data.
Dataset load_data(const Recipe& recipe, const std::string& cache = "");

// All bytes of other paths, read as the recipe's [data] says: they are `train`.
Dataset load_whole(const Recipe& recipe, const std::vector<std::string>& paths,
                   const std::string& cache = "");

// The folder for that which all runs beside this one share: .lace-cache in the folder above.
std::string cache_beside(const std::string& run_folder);

// What the last step of a training run measured.
struct TrainProgress {
  int64_t step = 0;          // steps done
  double fraction = 0;       // of the run, in [0, 1]
  double loss = 0;           // mean nats a byte over the step
  double bits_per_byte = 0;  // loss / ln 2
  double learning_rate = 0;
  double gradient_norm = 0;  // before clipping; what is not finite (fp16) counts as 0
  double tokens_per_s = 0;
  double step_s = 0;                               // of this step
  double elapsed_s = 0;                            // of training, all sittings together
  double remaining_s = 0;                          // estimate
  std::optional<double> validation_bits_per_byte;  // if this step was followed by a validation
  bool stop = false;  // a rank has asked to stop (ask_to_stop): all are told so after the same step
  // Whether the loss is above train.spike times the mean of those before it (src/train/loss_watch.h
  // has that mean), and of a spike the first bytes of the step's windows in the training data, all
  // ranks' in the order in which they are taken.
  bool spike = false;
  double mean_loss = 0;
  std::vector<int64_t> windows;
  // Of a run (train_run) alone:
  double validation_s = 0, sample_s = 0;  // that followed the step
  double checkpoint_s = 0;   // for which the checkpoint after the step before held up training
  int64_t memory_bytes = 0;  // on a CPU resident in the process; on a GPU the peak of tensors since
                             // the step before; 0: not known
  double share_of_peak = 0;  // of RunOptions::peak_operations_per_s; 0: not known
};

// One training run in memory: a model, its optimiser, its place in the data. Everything that later
// steps depend on is in save()'s file: a run that is stopped and resumed takes the same steps, bit
// for bit, as one that is not (as long as its schedule goes by steps, not by max_minutes).
class Trainer {
 public:
  // On `device` are the model, the batches and the optimiser; a checkpoint fits every device.
  // With a `group` its ranks train one model together: each takes train.accumulate micro-batches of
  // a step, so that the run is that of one process with group->size() times the accumulation, to
  // rounding; then steps and validate() are collectives, and give all ranks the same. The group
  // outlives the trainer. Throws lace::Error on all ranks if the recipe, the data or the build of
  // one are not those of rank 0.
  Trainer(const Recipe& recipe, Dataset data, at::Device device = at::kCPU, Group* group = nullptr);
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  const Recipe& recipe() const;
  SparseTransformer& model();
  int64_t step() const;                           // steps done
  int64_t bytes_trained() const;                  // by all ranks
  double elapsed_s() const;                       // of training, all sittings together
  std::optional<double> best_validation() const;  // the lowest finite validate() of the run
  bool divides_state() const;  // there are several ranks, and train.shard_optimizer
  bool done() const;           // train.steps or train.max_minutes are reached, or stopped_early()
  bool stopped_early() const;  // the last train.early_stop validations were no better than before

  // One optimiser step over train.accumulate micro-batches of train.batch sequences on each rank.
  // Where the precision is fp16, the loss is scaled; gradients that are not finite then count as 0,
  // the step is taken with the rest, and the scale halves. In other precisions such a step throws
  // lace::Error and changes nothing: neither weights nor place in the run nor its time.
  TrainProgress take_step();

  // The same in two: a GPU works on the next step while the host looks at the last. Up to two steps
  // may be started and not finished; step() counts those that are started, and the weights are
  // theirs once they are finished: finish all before anything else is asked of the run. A step that
  // throws in finish_step takes back those that were started after it.
  void start_step();
  TrainProgress finish_step();
  int64_t unfinished_steps() const;

  // The step that is started next tells all ranks to stop after it.
  void ask_to_stop();

  // Bits a byte on at most train.validate_windows windows spread over the validation bytes, with
  // the mean of the weights where optimizer.ema keeps one. Nothing without validation bytes.
  std::optional<double> validate();

  // Calls `use` while the model has the weights that validate() scores. They are to be read only.
  // A collective where divides_state().
  void with_validated_weights(const std::function<void(const SparseTransformer&)>& use);

  // All that save() writes, or the model's weights and their mean alone, as they are now, to be
  // written by any thread while steps go on: on a CPU a copy; on a GPU they are copied beside the
  // next step, whose optimiser waits for it, and nothing else does. The memory is kept for the next
  // snapshot, which takes more where this one still lives. Where divides_state(), a collective, and
  // null on all but rank 0.
  std::shared_ptr<const train::Snapshot> snapshot(bool whole = true) const;

  // Writes everything to a safetensors file with checksums, and a summary in JSON beside it, each
  // under a temporary name first, synced, then renamed. What had the name before is kept as
  // `keep_old_as`, unless that is "". Where divides_state(), a collective: rank 0 writes, and
  // the file's tensors are those that one without would have.
  void save(const std::string& path, const std::string& keep_old_as = "") const;

  // Takes up where save() left off. Throws lace::Error, and changes nothing, if the file is of
  // another model, if it is not as it was written (the error names the tensor), or, unless
  // `accept_changed_data`, if it was saved with other data: sizes of the splits, number of files,
  // and hashes of samples are compared. Where divides_state(), the optimiser's state waits for
  // share_start(), which must follow. Returns what a user should know, a line each: files of
  // older versions have no checksums, or nothing to compare the data with.
  std::vector<std::string> load(const std::string& path, bool accept_changed_data = false);

  // Makes all ranks what rank 0 is, once it may have loaded a checkpoint: weights, optimiser, place
  // in the data. Where divides_state(), the optimiser's state stays as it is unless rank 0 has
  // loaded one. A collective.
  void share_start();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// What was drawn from a model on the way, to be looked at.
struct DrawnSample {
  std::vector<uint8_t> bytes;  // the prompt, then what was drawn
  int64_t prompt_bytes = 0;
  double temperature = 1;
};

// A run folder (docs/runs.md), which rank 0 alone writes:
//   recipe.toml                          the recipe as it was resolved
//   run.json                             version, commit, machine, device, seed, sizes
//   metrics.jsonl                        one line a step, also with its validation
//   events.out.tfevents.*                the same for TensorBoard, a file a sitting
//   samples.jsonl, samples/STEP-I.bin    what was drawn every train.sample_every steps
//   last.safetensors, last.json          model, optimiser, place in the data
//   previous.safetensors, previous.json  the same, of the checkpoint before
//   step-N.safetensors, step-N.json      the same, of the train.keep_checkpoints before that
//   best.safetensors, best.json          the weights at the lowest validation loss, and that loss
//   damaged.safetensors, damaged.json    a `last` that could not be read when the run went on
//   train.lock                           while a process trains: its id
// Files of weights are complete at every moment. Beside last, previous and those that are kept, of
// equal size, the disk needs room for one more such file while a checkpoint is written.
struct RunOptions {
  std::string folder;
  bool resume = false;           // take up the folder's last checkpoint, if there is one
  at::Device device = at::kCPU;  // to train on
  Group* group = nullptr;        // the processes that train together, if there are several
  std::function<void(const Dataset&)> on_data = {};  // called once, with what will be trained on
  // Called after each step; returning false saves a checkpoint and ends the run early, with a group
  // after the next step, on all ranks.
  std::function<bool(const TrainProgress&)> on_step = {};
  bool accept_changed_data = false;  // resume also if the data are not those of the checkpoint
  // Called with a line that the user should see: where the run goes on and from which file, what
  // could not be read, a validation that is not finite, a loss that is a spike, an early stop.
  std::function<void(const std::string&)> on_note = {};
  // Draws train.sample_bytes bytes from the model, whose weights are those that validations score;
  // the seed is the same at every step, another for each of train.sample_count. Nothing: it was cut
  // short. Without it, no samples are drawn.
  std::function<std::optional<DrawnSample>(const SparseTransformer& model, int64_t bytes,
                                           uint64_t seed)>
      draw = {};
  // Of a step of this rank; 0: not known.
  double step_operations = 0;
  // Measures what the device can do, in operations a second; 0: not known. Called as the run starts
  // and after each validation, and the highest counts from then on: others may keep a machine busy
  // at one moment or another.
  std::function<double()> measure_peak = {};
};

struct RunResult {
  int64_t steps = 0;
  int64_t tokens = 0;  // bytes trained on, all sittings together
  double elapsed_s = 0;
  double tokens_per_s = 0;     // mean of the run
  bool finished = false;       // false: on_step ended it
  bool stopped_early = false;  // train.early_stop ended it
  std::optional<double> validation_bits_per_byte, best_validation_bits_per_byte;
};

// Trains a recipe into a run folder. Throws lace::Error if the folder already holds a run and
// `resume` is not set, or holds one of another recipe or other data and it is; or if another
// process or thread trains in it. A `last` checkpoint that is damaged is set aside, and the run
// goes on from the newest before it that is sound. Checkpoints are written by a thread of their own
// while steps go on, one at a time; one that could not be written is an error of a later step, and
// the file before it stays. When a step, a validation or a write fails, the steps so far are saved
// if that works before the error is thrown. A start that fails before its first step leaves no
// folder behind. With a group, rank 0's folder and checkpoint count, `on_data` and `on_note` are
// called on rank 0 only, an error on one rank is an error on all, after which those on GPUs, or
// that divide the optimiser's state, save nothing more, and returning means that the run is
// complete.
RunResult train_run(const Recipe& recipe, const RunOptions& options);

// The recipe and the weights of a run folder: those of `checkpoint` ("best", "last", "previous" or
// "step-N"; "": best if there is one, else last), and of these the mean where one is kept. Also
// while the run is being trained. Throws lace::Error naming the file and tensor that are not as
// they were written, and the other checkpoints that there are.
struct LoadedRun {
  Recipe recipe;
  std::unique_ptr<SparseTransformer> model;
  int64_t step = 0;
  std::string checkpoint;
  std::vector<std::string> not_finite;  // parameters that hold NaN or infinities
};
LoadedRun load_run(const std::string& folder, const std::string& checkpoint = "",
                   at::Device device = at::kCPU);

// What a recipe will ask of this machine and device.
struct TrainEstimate {
  int64_t parameters = 0;
  int64_t tokens_per_step = 0;
  int64_t steps = 0;        // train.steps, or what max_minutes allow
  double memory_bytes = 0;  // of parameters, gradients, optimiser and activations, by counting
  double step_seconds = 0;  // from a pass over a few sequences through one cycle of its layers
  double seconds = 0;       // of the whole run
};

// Builds one cycle of the layers and times it: seconds, not minutes, for models of any depth.
TrainEstimate estimate_training(const Recipe& recipe, at::Device device = at::kCPU);

}  // namespace lace
