#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "lace/train.h"

#include "train/adam.h"
#include "train/checkpoint.h"
#include "train/loss_watch.h"
#include "train/ranks.h"
#include "train/step_runner.h"

namespace lace {

struct Trainer::Impl {
  using Clock = std::chrono::steady_clock;

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
  int64_t validations_since_best = 0;
  train::LossWatch losses;
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

  // The model's weights and the optimiser's arrays in memory of the host, where a snapshot puts
  // them: kept, as making it takes a GPU longer than filling it.
  struct HostMemory {
    std::vector<at::Tensor> arrays;
  };
  std::shared_ptr<HostMemory> host_memory;

  Impl(const Recipe& r, Dataset d, at::Device device, Group* group);

  double elapsed() const;
  void set_elapsed(double seconds);
  // The time that the schedule goes by, the same on all ranks.
  double schedule_elapsed() const {
    return ranks.size() == 1 ? elapsed() : agreed_elapsed + agreed_step_s;
  }
  double schedule_step_s() const { return ranks.size() == 1 ? last_step_s : agreed_step_s; }

  int64_t windows_before(int64_t of) const {
    return base_windows + (of - base_step) * ranks.shares().windows();
  }
  // Sequences are taken in the sampler's order, step by step, micro-batch by micro-batch.
  void read_step(int64_t of, std::span<uint8_t> bytes) const;
  // Where the windows that all ranks have taken in the `of`-th step begin.
  std::vector<int64_t> window_begins(int64_t of) const;

  // The run stands before the step of `back` again: neither it nor what was started since has
  // changed anything.
  void go_back(const Started& back);
  // After the step that found `numbers`, the last that is finished.
  TrainProgress progress(double learning_rate, const train::StepNumbers& numbers);

  // The mean over at most train.validate_windows windows. Each rank scores some of the batches; the
  // sum of all is the same as one rank's. The weights must be those to be scored.
  double validation_bits() const;

  // How the data differ from those of the checkpoint at `path`, or that nobody knows; "" if they do
  // not.
  std::string changed_data(const std::string& path, const train::CheckpointState& state) const;

  std::vector<NamedParameter> weights() const;          // "model.…"
  std::vector<NamedParameter> optimizer_state() const;  // "adam.…"
  std::vector<NamedParameter> saved_tensors() const;    // both

  nlohmann::ordered_json state() const;
  // What snapshot() gives where ranks divide the state, and where not.
  std::shared_ptr<const train::Snapshot> gathered_snapshot(bool whole);
  std::shared_ptr<const train::Snapshot> own_snapshot(bool whole);

  // Ranks that divide the state have theirs of a load only after share_start().
  void check_state_is_shared(std::string_view what) const;
  // All ranks' divided state becomes that of the checkpoint that rank 0 has loaded.
  void deal_loaded_state();
};

}  // namespace lace
