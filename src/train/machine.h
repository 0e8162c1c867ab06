#pragma once

#include <ATen/core/Tensor.h>
#include <nlohmann/json.hpp>

namespace lace::train {

// What this machine is: processor, cores, memory, threads, libtorch; and which device of it works.
nlohmann::ordered_json machine(at::Device device);

// Bytes of memory: on a CPU what of this process is resident; on a GPU the peak of what this
// process has allocated there since the last call. 0 where that is not known.
int64_t memory_in_use(at::Device device);

}  // namespace lace::train
