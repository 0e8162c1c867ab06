#include "bench_step_run.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <random>

#include <ATen/Context.h>

#include "lace/train.h"

#include "bench_attention.h"
#include "bench_rounds.h"
#include "core/large_memory.h"
#include "ops/device_profile.h"
#include "ops/device_queue.h"

namespace lace::cli {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kGroups = 5;
constexpr int kProfiledSteps = 2;

// Random bytes: the time of a step does not depend on what it learns.
Dataset random_data(const Recipe& recipe) {
  std::mt19937 generator(1);
  const int64_t windows = recipe.train.batch * recipe.train.accumulate + 1;
  std::vector<uint8_t> bytes(static_cast<size_t>(windows * recipe.model.seq_len));
  for (uint8_t& byte : bytes) {
    byte = static_cast<uint8_t>(generator() % static_cast<uint64_t>(recipe.model.vocab));
  }
  Dataset data;
  data.train = ByteStream(std::move(bytes));
  return data;
}

}  // namespace

double step_operations(const Recipe& recipe) {
  const ModelConfig& model = recipe.model;
  const auto cycle = static_cast<int64_t>(model.patterns.size());
  double pairs = 0;
  for (int64_t i = 0; i < std::min(cycle, model.layers); ++i) {
    const auto layers = static_cast<double>((model.layers - i + cycle - 1) / cycle);
    pairs +=
        layers * live_pairs(model.patterns[static_cast<size_t>(i)], model.heads, model.seq_len);
  }
  return train::step_operations(model, recipe.train.batch * recipe.train.accumulate, pairs);
}

namespace {

std::vector<double> time_one_by_one(Trainer& trainer, const StepOptions& options, double tokens) {
  for (int i = 0; i < options.warm_up; ++i) trainer.take_step();
  std::vector<double> times_ms;
  for (int i = 0; i < options.steps; ++i) {
    times_ms.push_back(1e3 * tokens / trainer.take_step().tokens_per_s);
  }
  return times_ms;
}

// A step is finished when the GPU has come to its end while it already works on the next: from end
// to end is the GPU's time.
std::vector<double> time_ahead(Trainer& trainer, const StepOptions& options) {
  const auto next = [&] {
    trainer.start_step();
    trainer.finish_step();
  };
  trainer.start_step();
  for (int i = 0; i < options.warm_up; ++i) next();
  std::vector<double> times_ms;
  const int group = (options.steps + kGroups - 1) / kGroups;
  auto begin = Clock::now();
  for (int done = 0; done < options.steps; done += group) {
    const int count = std::min(group, options.steps - done);
    for (int i = 0; i < count; ++i) next();
    const auto end = Clock::now();
    times_ms.push_back(std::chrono::duration<double, std::milli>(end - begin).count() / count);
    begin = end;
  }
  trainer.finish_step();
  return times_ms;
}

std::optional<StepProfile> profile_steps(Trainer& trainer) {
  std::vector<ops::DeviceSpan> spans = ops::profile_device([&] {
    for (int i = 0; i < kProfiledSteps; ++i) {
      trainer.start_step();
      if (i > 0) trainer.finish_step();
    }
    trainer.finish_step();
  });
  if (spans.empty()) return std::nullopt;
  StepProfile profile;
  profile.times = train::step_times(spans);
  for (double& part_ms : profile.times.part_ms) part_ms /= kProfiledSteps;
  profile.times.busy_ms /= kProfiledSteps;
  profile.times.extent_ms /= kProfiledSteps;
  std::map<std::string, KernelTime> kernels;
  for (const ops::DeviceSpan& span : spans) {
    KernelTime& kernel = kernels[span.name];
    kernel.name = span.name;
    kernel.part = train::step_part(span.name);
    kernel.calls += 1.0 / kProfiledSteps;
    kernel.time_ms += 1e-6 * static_cast<double>(span.end_ns - span.begin_ns) / kProfiledSteps;
  }
  for (const auto& [_, kernel] : kernels) profile.kernels.push_back(kernel);
  std::sort(profile.kernels.begin(), profile.kernels.end(),
            [](const KernelTime& a, const KernelTime& b) { return a.time_ms > b.time_ms; });
  profile.spans = std::move(spans);
  return profile;
}

}  // namespace

double StepResult::time_ms() const { return median(times_ms); }

double StepResult::idle_ms() const {
  return profile ? std::max(0.0, time_ms() - profile->times.busy_ms) : 0;
}

StepResult run_steps(Recipe recipe, c10::Device device, const StepOptions& options) {
  recipe.train.steps = 0;
  recipe.train.max_minutes = 60;  // a schedule is asked for; the run ends by options.steps
  const auto tokens =
      static_cast<double>(recipe.train.batch * recipe.train.accumulate * recipe.model.seq_len);
  StepResult result;
  result.operations = step_operations(recipe);
  if (device.is_cpu()) {
    keep_freed_memory();  // as lace train does
  } else {
    at::globalContext().lazyInitDevice(device.type());
  }
  ops::take_peak_memory(device);  // from here on
  Trainer trainer(recipe, random_data(recipe), device);
  result.times_ms =
      device.is_cpu() ? time_one_by_one(trainer, options, tokens) : time_ahead(trainer, options);
  result.memory_bytes = ops::take_peak_memory(device);
  if (options.profile && !device.is_cpu()) result.profile = profile_steps(trainer);
  return result;
}

}  // namespace lace::cli
