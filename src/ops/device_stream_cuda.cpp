#include <cuda_runtime_api.h>

#include <c10/cuda/CUDAStream.h>

#include "ops/device_stream.h"

namespace lace::ops {

const bool kBuiltWithCuda = true;

void* current_stream(c10::Device device) {
  return device.is_cuda() ? c10::cuda::getCurrentCUDAStream(device.index()).stream() : nullptr;
}

std::vector<Gpu> gpus() {
  std::vector<Gpu> found;
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
  for (int device = 0; device < count; device++) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, device) != cudaSuccess) continue;
    found.push_back({properties.name,
                     std::to_string(properties.major) + "." + std::to_string(properties.minor),
                     static_cast<int64_t>(properties.totalGlobalMem)});
  }
  return found;
}

}  // namespace lace::ops
