// What of a Trainer is saved, loaded and shared among ranks.

#include <limits>

#include <ATen/ATen.h>

#include "lace/version.h"

#include "train/data_fingerprint.h"
#include "train/machine.h"
#include "train/snapshot.h"
#include "train/trainer_impl.h"

namespace lace {
namespace {

// Keys of a checkpoint's state that older ones do not have.
constexpr const char *kBest = "best_validation_bits_per_byte",
                     *kSinceBest = "validations_since_best", *kMeanLoss = "mean_loss",
                     *kMeanLossSteps = "mean_loss_steps";

}  // namespace

std::vector<NamedParameter> Trainer::Impl::weights() const {
  std::vector<NamedParameter> weights;
  for (const NamedParameter& p : model.parameters())
    weights.push_back({"model." + p.name, p.tensor.detach()});
  return weights;
}

std::vector<NamedParameter> Trainer::Impl::optimizer_state() const {
  std::vector<NamedParameter> state;
  for (const NamedParameter& p : adam.saved()) state.push_back({"adam." + p.name, p.tensor});
  return state;
}

std::vector<NamedParameter> Trainer::Impl::saved_tensors() const {
  std::vector<NamedParameter> tensors = weights();
  for (const NamedParameter& p : optimizer_state()) tensors.push_back(p);
  return tensors;
}

nlohmann::ordered_json Trainer::Impl::state() const {
  nlohmann::ordered_json state = {{"format", 2},
                                  {"step", step},
                                  {"optimizer_steps", adam.steps()},
                                  {"elapsed_s", elapsed()},
                                  {"loss_scale", loss_scale},
                                  {"bytes_trained", windows_before(step) * recipe.model.seq_len},
                                  {"data", fingerprint},
                                  {"recipe", recipe.name},
                                  {"version", version()},
                                  {"commit", commit()},
                                  {"machine", train::machine(model.device())},
                                  {kMeanLoss, losses.state().mean},
                                  {kMeanLossSteps, losses.state().steps},
                                  {kSinceBest, validations_since_best}};
  if (best_validation) state[kBest] = *best_validation;
  return state;
}

std::shared_ptr<const train::Snapshot> Trainer::Impl::own_snapshot(bool whole) {
  std::vector<at::Tensor> arrays = {model.impl()->arena.values()};
  std::vector<std::string> prefixes = {"model."};
  for (const train::Adam::Array& array : adam.arrays()) {
    arrays.push_back(array.own);
    prefixes.push_back("adam." + array.prefix);
  }
  if (!host_memory || host_memory.use_count() > 1) host_memory = std::make_shared<HostMemory>();
  host_memory->arrays.resize(arrays.size());
  std::vector<train::StepRunner::Copy> copies;
  for (size_t i = 0; i < arrays.size(); ++i) {
    if (!whole && i > 0 && prefixes[i] != "adam.ema.") continue;
    at::Tensor& to = host_memory->arrays[i];
    if (!to.defined()) to = runner.host_array(arrays[i]);
    copies.push_back({to, arrays[i]});
  }
  train::Snapshot::Contents contents;
  contents.ready = runner.download(copies);
  for (const auto& copy : copies) contents.sources.push_back(copy.from);
  const auto add = [&](size_t parameter, size_t array) {
    if (!whole && array > 0 && prefixes[array] != "adam.ema.") return;
    contents.tensors.push_back({prefixes[array] + model.parameters()[parameter].name,
                                model.impl()->arena.view(host_memory->arrays[array], parameter)});
  };
  const size_t count = model.parameters().size();
  for (size_t i = 0; i < count; ++i) add(i, 0);
  for (size_t i = 0; i < count; ++i)
    for (size_t array = 1; array < arrays.size(); ++array) add(i, array);
  contents.memory = host_memory;
  contents.state = state();
  return std::make_shared<const train::Snapshot>(std::move(contents));
}

std::shared_ptr<const train::Snapshot> Trainer::Impl::gathered_snapshot(bool whole) {
  train::Snapshot::Contents contents;
  const bool first = ranks.rank() == 0;
  const auto add = [&](const std::string& name, const at::Tensor& tensor) {
    if (first) contents.tensors.push_back({name, tensor.detach().to(at::kCPU, false, true)});
  };
  for (const NamedParameter& p : weights()) add(p.name, p.tensor);
  if (whole) {
    const std::vector<NamedParameter> names = optimizer_state();
    for (size_t i = 0; i < names.size(); ++i) add(names[i].name, adam.collect(i));
  } else {
    const std::vector<at::Tensor> mean = adam.ema();
    for (size_t i = 0; i < mean.size(); ++i) add("adam.ema." + model.parameters()[i].name, mean[i]);
  }
  if (!first) return nullptr;
  contents.state = state();
  return std::make_shared<const train::Snapshot>(std::move(contents));
}

std::string Trainer::Impl::changed_data(const std::string& path,
                                        const train::CheckpointState& state) const {
  if (!state.has("data")) return path + " does not say what its data were: they are not compared";
  const std::string difference = train::fingerprint_difference(state.json()["data"], fingerprint);
  return difference.empty() ? "" : "the data are not those of " + path + ": " + difference;
}

void Trainer::Impl::deal_loaded_state() {
  const auto scope = runner.enter();
  const std::vector<NamedParameter> state = optimizer_state();
  for (size_t i = 0; i < state.size(); ++i) {
    at::Tensor whole;
    if (loaded) {
      whole = at::empty_like(state[i].tensor, at::kCPU);
      loaded->read({{state[i].name, whole}});
    }
    adam.deal(i, whole);
  }
}

std::shared_ptr<const train::Snapshot> Trainer::snapshot(bool whole) const {
  Impl& s = *impl_;
  LACE_CHECK(unfinished_steps() == 0, "[train] steps that were started must be finished before ",
             "their state is kept, got ", unfinished_steps());
  s.check_state_is_shared("a checkpoint");
  const auto scope = s.runner.enter();
  return divides_state() ? s.gathered_snapshot(whole) : s.own_snapshot(whole);
}

void Trainer::save(const std::string& path, const std::string& keep_old_as) const {
  const auto whole = snapshot(true);
  if (whole) whole->write(path, keep_old_as);
}

std::vector<std::string> Trainer::load(const std::string& path, bool accept_changed_data) {
  Impl& s = *impl_;
  train::CheckpointFile file(path);
  const train::CheckpointState state(file);
  const int64_t step = state.count("step"), optimizer_steps = state.count("optimizer_steps");
  const int64_t windows = state.count("bytes_trained") / s.recipe.model.seq_len;
  const double elapsed = state.number("elapsed_s"), loss_scale = state.number("loss_scale");
  std::optional<double> best;
  if (state.has(kBest)) best = state.number(kBest);
  const int64_t since_best = state.has(kSinceBest) ? state.count(kSinceBest) : 0;
  train::LossWatch::State losses;
  if (state.has(kMeanLoss)) losses = {state.number(kMeanLoss), state.count(kMeanLossSteps)};

  std::vector<std::string> notes;
  if (!file.has_checksums()) notes.push_back(path + " has no checksums: it is taken as it is");
  const std::string changed = s.changed_data(path, state);
  if (!changed.empty()) {
    if (state.has("data") && !accept_changed_data) throw train::DataChanged("[train] " + changed);
    notes.push_back(changed);
  }
  const auto scope = s.runner.enter();
  file.read(s.saved_tensors());
  if (divides_state()) s.loaded = std::move(file);
  s.unfinished.clear();
  s.runner.reset();
  s.adam.clear_failure();
  s.step = s.base_step = step;
  s.base_windows = windows;
  s.adam.set_steps(optimizer_steps);
  s.best_validation = best;
  s.validations_since_best = since_best;
  s.losses.set_state(losses);
  s.set_elapsed(elapsed);
  s.last_step_s = 0;
  s.loss_scale = loss_scale;
  s.adam.set_loss_scale(loss_scale);
  return notes;
}

void Trainer::share_start() {
  Impl& s = *impl_;
  const double none = std::numeric_limits<double>::infinity();
  std::vector<double> numbers = {static_cast<double>(s.step),
                                 static_cast<double>(s.base_windows),
                                 static_cast<double>(s.adam.steps()),
                                 s.best_validation.value_or(none),
                                 s.elapsed(),
                                 s.loss_scale,
                                 s.loaded ? 1.0 : 0.0,
                                 static_cast<double>(s.validations_since_best),
                                 s.losses.state().mean,
                                 static_cast<double>(s.losses.state().steps)};
  s.ranks.share(divides_state() ? s.weights() : s.saved_tensors(), numbers);
  if (numbers[6] != 0) s.deal_loaded_state();
  s.loaded.reset();
  s.step = s.base_step = static_cast<int64_t>(numbers[0]);
  s.base_windows = static_cast<int64_t>(numbers[1]);
  s.adam.set_steps(static_cast<int64_t>(numbers[2]));
  s.best_validation = numbers[3] == none ? std::nullopt : std::optional(numbers[3]);
  s.validations_since_best = static_cast<int64_t>(numbers[7]);
  s.losses.set_state({numbers[8], static_cast<int64_t>(numbers[9])});
  s.set_elapsed(numbers[4]);
  s.agreed_elapsed = numbers[4];
  s.loss_scale = numbers[5];
  s.adam.set_loss_scale(s.loss_scale);
}

}  // namespace lace
