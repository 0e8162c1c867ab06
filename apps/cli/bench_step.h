#pragma once

#include <CLI/CLI.hpp>

namespace lace::cli {

// Adds `step` to `lace bench`.
void add_bench_step(CLI::App& bench);

}  // namespace lace::cli
