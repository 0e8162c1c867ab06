#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json_fwd.hpp>

#include "lace/model.h"

namespace lace::cli {

// The fields of a model as benchmarks print them, defaults filled in.
nlohmann::ordered_json model_json(const ModelConfig& model);

// Adds `step` to `lace bench`.
void add_bench_step(CLI::App& bench);

}  // namespace lace::cli
