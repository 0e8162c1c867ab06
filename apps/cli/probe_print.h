#pragma once

#include <string>

#include "train/probe_page.h"

namespace lace::cli {

// A run's map of copying, in colours where stdout shows them, and its loss by position.
std::string probe_text(const ProbedRun& run);

}  // namespace lace::cli
