#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lace/recipe.h"

#include "train/files.h"

namespace lace::train {

// "x/last.safetensors" → "x/last.json"
std::string json_path(const std::string& safetensors_path);

// The step of a checkpoint that is named "step-N"; nothing for other names.
std::optional<int64_t> kept_step(std::string_view name);

// The names of a run folder's files (lace/train.h lists them).
struct RunFiles {
  std::string folder;

  std::string recipe() const { return folder + "/recipe.toml"; }
  std::string description() const { return folder + "/run.json"; }
  std::string metrics() const { return folder + "/metrics.jsonl"; }
  std::string samples() const { return folder + "/samples.jsonl"; }
  std::string lock() const { return folder + "/train.lock"; }
  // "last", "previous", "best", "damaged" or kept(step)
  std::string checkpoint(const std::string& name) const {
    return folder + "/" + name + ".safetensors";
  }
  static std::string kept(int64_t step) { return "step-" + std::to_string(step); }
  bool has(const std::string& name) const;
  // The steps of those that are kept beside the last two, the newest first.
  std::vector<int64_t> kept_steps() const;
  // Those of "best", "last" and "previous" that are there, then those that are kept.
  std::vector<std::string> checkpoints() const;
  // Is there anything that a run would lose: a checkpoint, or a step's metrics? What a start that
  // failed before its first step has left is nothing.
  bool holds_run() const;
};

// A run folder that this process trains in: made if need be, and locked against all others until
// the object is gone, however the process ends. Unless keep() was called, what a start has made is
// then removed.
class TrainingFolder {
 public:
  // Throws lace::Error if the folder cannot be made or is being trained in, naming the process.
  explicit TrainingFolder(const std::string& folder);
  ~TrainingFolder();
  TrainingFolder(const TrainingFolder&) = delete;
  TrainingFolder& operator=(const TrainingFolder&) = delete;

  // Throws lace::Error unless a run of `recipe` may start here (`resume`: or go on). The recipe of
  // a run that goes on may differ in where it ends and in what is measured on the way. A
  // recipe.toml that no run wrote is never replaced.
  void check(const Recipe& recipe, bool resume) const;

  void keep() { kept_ = true; }

 private:
  RunFiles files_;
  std::vector<std::filesystem::path> made_;  // folders, the outermost first
  std::vector<std::string> new_files_;       // those that were not there
  Descriptor lock_;
  bool kept_ = false;
};

}  // namespace lace::train
