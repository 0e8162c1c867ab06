#pragma once

#include <string>

#include "lace/recipe.h"

namespace lace::cli {

// Throws lace::Error `[data] no such file or folder: …` where a path of [data] leads nowhere, as
// loading would, but with what helps: the `lace data get …` that fetches it, or `instead`, what
// else the user can do ("--set data.paths=FILE names others"; "": nothing).
void check_data_paths(const DataConfig& data, const std::string& instead);

}  // namespace lace::cli
