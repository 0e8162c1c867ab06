#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace lace::cli {

// What options may hold. Each throws CLI::ValidationError on anything else, which names the option,
// what it takes and what it got; put them on with ->transform(…).

// A whole number in decimal digits.
CLI::Validator whole_number(int64_t lowest, int64_t highest = std::numeric_limits<int64_t>::max());
// A finite number.
CLI::Validator number(double lowest, double highest = std::numeric_limits<double>::max());
// A path, "~" expanded; not "".
CLI::Validator path();

// What is wrong with arguments that no option of the given command takes: the unknown option or
// subcommand, and the nearest known one if it is near. "" if all were taken.
std::string unknown_argument(const CLI::App& command);

}  // namespace lace::cli
