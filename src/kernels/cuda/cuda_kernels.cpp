#include "kernels/cuda/cuda_kernels.h"

#include <cuda_runtime_api.h>

#include "lace/error.h"

#include "kernels/cuda/portable/attention.h"

namespace lace::cuda {
namespace {

// Why the current GPU cannot run what was compiled for compute capability `major`.0 and newer.
std::string lacks_capability(int major) {
  int count = 0, device = 0, of_device = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess || count == 0) {
    cudaGetLastError();  // the runtime would report it again
    return status == cudaSuccess ? "there is no CUDA device"
                                 : concat("no CUDA device: ", cudaGetErrorString(status));
  }
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&of_device, cudaDevAttrComputeCapabilityMajor, device) !=
          cudaSuccess) {
    cudaGetLastError();
    return "the CUDA device does not answer";
  }
  if (of_device >= major) return "";
  return concat("the GPU has compute capability ", of_device, ".x, it needs ", major, ".0");
}

std::string portable_unavailable() { return lacks_capability(8); }

}  // namespace

const Kernel kPortable = {
    "cuda_portable", Device::kCuda,     portable_unavailable, portable::unsupported,
    portable::tiles, portable::forward, portable::backward,
};

}  // namespace lace::cuda
