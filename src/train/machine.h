#pragma once

#include <ATen/core/Tensor.h>
#include <nlohmann/json.hpp>

namespace lace::train {

// What this machine is: processor, cores, memory, threads, libtorch; and which device of it works.
nlohmann::ordered_json machine(at::Device device);

}  // namespace lace::train
