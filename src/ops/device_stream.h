#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <c10/core/Device.h>

namespace lace::ops {

// The cudaStream_t that libtorch enqueues on for this device; null for a CPU.
void* current_stream(c10::Device device);

extern const bool kBuiltWithCuda;

struct Gpu {
  std::string name;
  std::string capability;  // "9.0"
  int64_t memory_bytes = 0;
};
// The GPUs that this build and this machine have.
std::vector<Gpu> gpus();

}  // namespace lace::ops
