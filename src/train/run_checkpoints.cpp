#include "train/run_checkpoints.h"

#include <array>
#include <utility>

#include <unistd.h>

#include "train/checkpoint.h"
#include "train/files.h"

namespace lace::train {
namespace {

// Of a checkpoint that is damaged, or not there: nothing.
std::optional<int64_t> step_of(const std::string& path) try {
  const CheckpointFile file(path);
  return CheckpointState(file).count("step");
} catch (const Error&) {
  return std::nullopt;
}

}  // namespace

void RunCheckpoints::write_last(const Snapshot& snapshot) const {
  const std::string last = files_.checkpoint("last"), previous = files_.checkpoint("previous");
  if (keep_ > 0) {
    if (const std::optional<int64_t> step = step_of(previous)) {
      const std::string kept = files_.checkpoint(RunFiles::kept(*step));
      keep_as(previous, kept);
      keep_as(json_path(previous), json_path(kept));
    }
  }
  snapshot.write(last, previous);
  if (keep_ == 0) return;
  const std::vector<int64_t> steps = files_.kept_steps();
  for (size_t i = static_cast<size_t>(keep_); i < steps.size(); ++i) {
    const std::string old = files_.checkpoint(RunFiles::kept(steps[i]));
    ::unlink(old.c_str());
    ::unlink(json_path(old).c_str());
  }
}

void RunCheckpoints::write(std::shared_ptr<const Snapshot> snapshot, int64_t step,
                           const Parts& parts) {
  background_.start([this, snapshot = std::move(snapshot), step, parts] {
    before_();
    if (parts.best) snapshot->write_validated(files_.checkpoint("best"), *parts.best);
    if (!parts.last) return;
    write_last(*snapshot);
    saved_step_ = step;
  });
}

}  // namespace lace::train
