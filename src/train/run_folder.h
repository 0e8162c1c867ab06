#pragma once

#include <map>
#include <string>

#include <nlohmann/json.hpp>

#include "lace/train.h"

namespace lace::train {

// What this machine is: processor, cores, memory, threads, libtorch; and which device of it works.
nlohmann::ordered_json machine(at::Device device);

// "x/last.safetensors" → "x/last.json"
std::string json_path(const std::string& safetensors_path);

// The state that Trainer::save wrote into a file's metadata. Throws lace::Error if `path` is no
// checkpoint of this format.
nlohmann::json checkpoint_state(const std::map<std::string, std::string>& metadata,
                                const std::string& path);

}  // namespace lace::train
