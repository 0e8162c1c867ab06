#include "kernels/cuda/cuda_kernels.h"

#include <cuda_runtime_api.h>

#include "lace/error.h"

#include "kernels/cuda/portable/attention.h"
#include "kernels/cuda/sm90/attention_backward.h"
#include "kernels/cuda/sm90/attention_forward.h"

namespace lace::cuda {
namespace {

// Why the current GPU cannot run what was compiled for compute capability `major`.0 (`exactly`: and
// no newer one).
std::string lacks_capability(int major, bool exactly) {
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
  if (exactly ? of_device == major : of_device >= major) return "";
  return concat("the GPU has compute capability ", of_device, ".x, it needs ", major, ".0");
}

std::string sm90_unavailable() { return lacks_capability(9, true); }
std::string portable_unavailable() { return lacks_capability(8, false); }

KernelTiles sm90_tiles(const AttentionShape& shape) {
  return {sm90::forward_tile(shape), sm90::backward_tile(shape)};
}

// Rows are read 16 bytes at a time.
int64_t dim_multiple(const AttentionShape&) { return 8; }

}  // namespace

const Kernel kSm90 = {
    "cuda_sm90",  Device::kCuda,        sm90_unavailable,     sm90::unsupported,
    sm90_tiles,   sm90::forward,        sm90::backward,       sm90::best_forward_tile,
    dim_multiple, /*joins_sinks=*/true, /*clears_rows=*/true,
};

const Kernel kPortable = {
    "cuda_portable",       Device::kCuda,   portable_unavailable,
    portable::unsupported, portable::tiles, portable::forward,
    portable::backward,    nullptr,         dim_multiple,
};

}  // namespace lace::cuda
