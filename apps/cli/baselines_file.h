#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

namespace lace::cli {

// Keeps what `lace eval --baselines` found of a split in the run's baselines.json (docs/json.md),
// in place of what stood there of that split, and renews the run's report if there is one. Where
// the folder cannot be written, a warning on stderr says so.
void keep_baselines(const std::string& run, const std::string& split,
                    const nlohmann::ordered_json& entry);

}  // namespace lace::cli
