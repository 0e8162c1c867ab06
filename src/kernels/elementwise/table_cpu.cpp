// The table of a build without CUDA.

#include "lace/error.h"

#include "kernels/elementwise/cpu/cpu_elementwise.h"

namespace lace {

const ElementwiseKernels& elementwise_kernels(Device device) {
  LACE_CHECK(device == Device::kCpu, "[elementwise] device must be a CPU in this build, got ",
             "a GPU");
  return cpu::kElementwise;
}

}  // namespace lace
