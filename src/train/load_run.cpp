#include <filesystem>

#include <ATen/ATen.h>

#include "lace/train.h"

#include "train/checkpoint.h"
#include "train/run_folder.h"

namespace lace {
namespace {

// "; there is also last and previous", for who cannot have `name`.
std::string others(const train::RunFiles& files, const std::string& name) {
  std::string text;
  for (const std::string& other : files.checkpoints())
    if (other != name) text += (text.empty() ? "; there is also " : " and ") + other;
  return text;
}

std::vector<std::string> not_finite(const std::vector<NamedParameter>& parameters) {
  std::vector<std::string> names;
  for (const NamedParameter& p : parameters)
    if (!at::isfinite(p.tensor.detach()).all().item<bool>()) names.push_back(p.name);
  return names;
}

}  // namespace

LoadedRun load_run(const std::string& folder, const std::string& checkpoint, at::Device device) {
  const train::RunFiles files{folder};
  LACE_CHECK(std::filesystem::exists(files.recipe()), "[run] ", folder,
             " is no run folder: it has no recipe.toml");
  LACE_CHECK(checkpoint.empty() || checkpoint == "best" || checkpoint == "last" ||
                 checkpoint == "previous" || train::kept_step(checkpoint),
             "[run] a checkpoint is best, last, previous or step-N, got ", checkpoint);
  LoadedRun run;
  run.recipe = load_recipe(files.recipe());
  run.checkpoint = !checkpoint.empty() ? checkpoint : files.has("best") ? "best" : "last";
  const std::string path = files.checkpoint(run.checkpoint);
  LACE_CHECK(files.has(run.checkpoint), "[run] ", folder, " has no checkpoint ", run.checkpoint,
             " yet (", path, ")", others(files, run.checkpoint));
  run.model = std::make_unique<SparseTransformer>(run.recipe.model, device);
  const bool mean = run.checkpoint != "best" && run.recipe.optimizer.ema > 0;
  std::vector<NamedParameter> weights;
  for (const NamedParameter& p : run.model->parameters())
    weights.push_back({(mean ? "adam.ema." : "model.") + p.name, p.tensor});
  try {
    train::CheckpointFile file(path);
    run.step = train::CheckpointState(file).count("step");
    file.read(weights);
  } catch (const Error& error) {
    throw Error(error.what() + others(files, run.checkpoint));
  }
  run.not_finite = not_finite(run.model->parameters());
  return run;
}

}  // namespace lace
