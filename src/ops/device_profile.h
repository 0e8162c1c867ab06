#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/executor.h"

namespace lace::ops {

// A kernel, copy or fill on a GPU, by the GPU's clock.
struct DeviceSpan {
  std::string name;  // a kernel's function, demangled unless very long
  int64_t begin_ns = 0, end_ns = 0;
};

// Runs `work`, waits for the GPU, and returns what the GPU did meanwhile, in the order of its
// beginnings: also the kernels of graphs, and those that other threads asked for. A kernel's own
// time is as it would be without this; the time between two kernels is longer. Empty where the
// driver lets nobody look, and in builds without CUDA. Not from two threads at once.
std::vector<DeviceSpan> profile_device(FunctionRef<void()> work);

}  // namespace lace::ops
