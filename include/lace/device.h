#pragma once

#include <string>

#include <c10/core/Device.h>

namespace lace {

// The device that `text` names: "cpu", "cuda" (the first GPU) or "cuda:1".
// Throws lace::Error `[device] …` if it names none, if this build has no CUDA, or if the machine
// has no such GPU.
c10::Device find_device(const std::string& text);

// The GPU's name, as "NVIDIA H200"; empty for a CPU.
std::string gpu_name(c10::Device device);

}  // namespace lace
