#include <algorithm>
#include <type_traits>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include "lace/version.h"
#include "lace/weights.h"

#include "model/scalar_type.h"
#include "train/adam.h"
#include "train/checkpoint.h"
#include "train/machine.h"
#include "train/recipe_fields.h"
#include "train/run_folder.h"

namespace lace {
namespace {

// All of [model], what follows from other fields filled in.
std::string config_json(ModelConfig config) {
  config.kv_heads = config.kv_heads_or_default();
  config.qk_dim = config.qk_dim_or_default();
  config.v_dim = config.v_dim_or_default();
  config.position_stride = config.position_stride_or_default();
  config.rotary_original_length = config.rotary_original_length_or_default();
  nlohmann::ordered_json json;
  train::visit_fields(config, [&](const char* key, const auto& field) {
    using Field = std::decay_t<decltype(field)>;
    if constexpr (std::is_enum_v<Field>) {
      json[key] = name(field);
    } else {
      json[key] = field;
    }
  });
  return json.dump();
}

// `recipe`, else the recipe in the file's metadata.
Recipe recipe_of(const train::CheckpointFile& file, const std::optional<std::string>& recipe,
                 const std::vector<std::string>& overrides) {
  if (recipe) return load_recipe(*recipe, overrides);
  const auto found = file.metadata().find("recipe");
  LACE_CHECK(found != file.metadata().end(), "[import] ", file.path(),
             " has no recipe in its metadata: give the model's (--recipe)");
  return parse_recipe(found->second, "the recipe of " + file.path(), overrides);
}

void read_weights(train::CheckpointFile& file, const SparseTransformer& model) {
  std::vector<std::string> known;
  for (const NamedParameter& p : model.parameters()) known.push_back(p.name);
  for (const std::string& name : file.names()) {
    LACE_CHECK(std::find(known.begin(), known.end(), name) != known.end(), "[import] ", file.path(),
               " has a tensor ", name, ", which the recipe's model has not");
  }
  const at::NoGradGuard no_grad;
  for (const NamedParameter& p : model.parameters()) {
    const at::Tensor stored = file.read(p.name);
    LACE_CHECK(stored.sizes() == p.tensor.sizes(), "[import] ", p.name, " of ", file.path(), " is ",
               stored.sizes(), ", the recipe's model has ", p.tensor.sizes());
    p.tensor.copy_(stored);
  }
}

// A checkpoint of step 0 with the model's weights.
void write_start(const std::string& path, const Recipe& recipe, const SparseTransformer& model) {
  const Precision precision = recipe.model.precision;
  const train::Adam adam(recipe.optimizer, model.impl()->arena, precision);
  std::vector<NamedParameter> tensors;
  for (const NamedParameter& p : model.parameters())
    tensors.push_back({"model." + p.name, p.tensor});
  for (const NamedParameter& p : adam.saved()) tensors.push_back({"adam." + p.name, p.tensor});
  const nlohmann::ordered_json state = {
      {"format", 2},
      {"step", 0},
      {"optimizer_steps", 0},
      {"elapsed_s", 0.0},
      {"loss_scale", train::loss_scaling(precision).on ? train::kLossScaleStart : 1.0},
      {"bytes_trained", 0},
      {"recipe", recipe.name},
      {"version", version()},
      {"commit", commit()},
      {"machine", train::machine(at::kCPU)}};
  train::write_safetensors(path, tensors, {{"lace", state.dump()}});
  train::write_file_atomically(train::json_path(path), state.dump(2) + "\n");
}

}  // namespace

void export_weights(const LoadedRun& run, const std::string& file, std::optional<Precision> dtype) {
  std::vector<NamedParameter> weights;
  for (const NamedParameter& p : run.model->parameters()) {
    const at::Tensor tensor = p.tensor.detach();
    weights.push_back({p.name, dtype ? tensor.to(model::scalar_type(*dtype)) : tensor});
  }
  Recipe recipe = run.recipe;
  recipe.data.forget_places();
  train::write_safetensors(file, weights,
                           {{"config", config_json(recipe.model)},
                            {"recipe", to_toml(recipe)},
                            {"step", std::to_string(run.step)},
                            {"checkpoint", run.checkpoint},
                            {"lace", std::string(version())},
                            {"format", "pt"}});
}

void import_weights(const std::string& file, const std::string& folder,
                    const std::optional<std::string>& recipe_file,
                    const std::vector<std::string>& overrides) {
  train::CheckpointFile weights(file);
  const Recipe recipe = recipe_of(weights, recipe_file, overrides);
  const SparseTransformer model(recipe.model);
  read_weights(weights, model);
  const train::RunFiles files{folder};
  train::TrainingFolder run(folder);
  run.check(recipe, /*resume=*/false);
  const nlohmann::ordered_json about = {{"imported", path_text(file)},
                                        {"recipe", recipe.name},
                                        {"version", version()},
                                        {"commit", commit()},
                                        {"machine", train::machine(at::kCPU)},
                                        {"parameters", parameter_count(recipe.model)}};
  train::write_file_atomically(files.description(), about.dump(2) + "\n");
  train::write_file_atomically(files.recipe(), to_toml(recipe));
  write_start(files.checkpoint("last"), recipe, model);
  run.keep();
}

}  // namespace lace
