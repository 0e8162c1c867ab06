#pragma once

#include <optional>
#include <string>

#include "lace/recipe.h"
#include "lace/train.h"

namespace lace {

// A model's weights as a safetensors file that other programs read: each parameter by its name
// (parameter_infos), in `dtype`, or as they are. Its metadata hold, as text:
//   "config"  the model as JSON: the keys of a recipe's [model], with every default filled in
//   "recipe"  the recipe as TOML, without the places of its data
//   "step", "checkpoint", "lace" (the version), "format" ("pt")
// and checksums of the tensors (src/train/checkpoint.h).
// Throws lace::Error naming the file that cannot be written.
void export_weights(const LoadedRun& run, const std::string& file,
                    std::optional<Precision> dtype = {});

// Makes a run folder whose checkpoint `last` has the weights of a file as export_weights writes it,
// or as any program may: every parameter of the model by its name, in float64, float32, float16 or
// bfloat16, and nothing else. The run stands at step 0, its optimiser as at the start: it can be
// evaluated, sampled, and trained further (--resume). The recipe is `recipe`, else that of the
// file, with `overrides` (parse_recipe) over it. Throws lace::Error, and leaves no folder behind,
// if the folder holds a run already, the file has no recipe and none is given, or its tensors are
// not those of the model.
void import_weights(const std::string& file, const std::string& folder,
                    const std::optional<std::string>& recipe,
                    const std::vector<std::string>& overrides = {});

}  // namespace lace
