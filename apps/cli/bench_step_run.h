#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <c10/core/Device.h>

#include "lace/recipe.h"

#include "train/step_parts.h"

namespace lace::cli {

struct KernelTime {
  std::string name;
  train::StepPart part = train::StepPart::kOther;
  double calls = 0, time_ms = 0;  // of one step
};

struct StepProfile {
  train::StepTimes times;           // of one step
  std::vector<KernelTime> kernels;  // longest first
  std::vector<ops::DeviceSpan> spans;
};

struct StepResult {
  std::vector<double> times_ms;  // on a CPU of each step; on a GPU the means of up to five groups
  double operations = 0;         // of a step (train::step_operations)
  int64_t memory_bytes = 0;      // peak of what was allocated on a GPU; 0 on a CPU
  std::optional<StepProfile> profile;  // on a GPU whose driver lets us look

  double time_ms() const;  // the median
  // What a step takes and no kernel or copy does.
  double idle_ms() const;
};

struct StepOptions {
  int warm_up = 3, steps = 20;
  bool profile = true;  // on a GPU, look at two more steps
};

// The operations of a step of one process (train::step_operations).
double step_operations(const Recipe& recipe);

// Times the training steps of a recipe on random bytes. On a GPU the host runs ahead, as in a
// training run: a step is asked for before the one before has been finished. Throws as Trainer.
StepResult run_steps(Recipe recipe, c10::Device device, const StepOptions& options);

}  // namespace lace::cli
