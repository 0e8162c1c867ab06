// The table of a build with CUDA.

#include "kernels/elementwise/cpu/cpu_elementwise.h"
#include "kernels/elementwise/cuda/cuda_elementwise.h"

namespace lace {

const ElementwiseKernels& elementwise_kernels(Device device) {
  return device == Device::kCuda ? cuda::kElementwise : cpu::kElementwise;
}

}  // namespace lace
