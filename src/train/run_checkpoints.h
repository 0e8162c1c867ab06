#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "train/background.h"
#include "train/run_folder.h"
#include "train/snapshot.h"

namespace lace::train {

// Writes a run's checkpoints, one at a time, while the run goes on.
class RunCheckpoints {
 public:
  // `keep`: of the checkpoints before `previous`, the last so many stay as step-N. `before` is
  // called first each time: what must be on the disk before a checkpoint is. `saved_step`: of the
  // checkpoint that the run goes on from, or 0.
  RunCheckpoints(const RunFiles& files, int64_t keep, int64_t saved_step,
                 std::function<void()> before)
      : files_(files), keep_(keep), before_(std::move(before)), saved_step_(saved_step) {}

  // What of a snapshot is written.
  struct Parts {
    bool last = false;           // as `last`; the snapshot must be whole
    std::optional<double> best;  // as `best`, with this score
  };
  // Waits for the one before, then begins. Throws, as check() and finish(), what went wrong with
  // an earlier one.
  void write(std::shared_ptr<const Snapshot> snapshot, int64_t step, const Parts& parts);
  // Does not wait.
  void check() { background_.check(); }
  // Waits until all is written.
  void finish() { background_.finish(); }

  // The step of the newest `last` that is on the disk.
  int64_t saved_step() const { return saved_step_; }

 private:
  void write_last(const Snapshot& snapshot) const;

  const RunFiles files_;
  const int64_t keep_;
  const std::function<void()> before_;
  std::atomic<int64_t> saved_step_;
  Background background_;  // last: uses the others
};

}  // namespace lace::train
