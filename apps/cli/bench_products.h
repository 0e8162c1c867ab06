#pragma once

#include <CLI/CLI.hpp>

namespace lace::cli {

// Adds `products` to `lace bench`.
void add_bench_products(CLI::App& bench);

}  // namespace lace::cli
