#pragma once

#include <CLI/CLI.hpp>

namespace lace::cli {

// Adds `decode` to `lace bench`.
void add_bench_decode(CLI::App& bench);

}  // namespace lace::cli
