// The table of a build with CUDA.

#include <array>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/recorded.h"
#include "kernels/reference/reference.h"

namespace lace {

std::span<const Kernel> kernels() {
  static const std::array kTable = {
      recorded<cuda::kSm90>(),        recorded<cuda::kPortable>(), recorded<cpu::kAvx512Bf16>(),
      recorded<cpu::kAvx512>(),       recorded<cpu::kAvx2>(),      recorded<cpu::kPortable>(),
      recorded<reference::kKernel>(),
  };
  return kTable;
}

std::span<const std::string_view> kernels_without_cuda() { return {}; }

}  // namespace lace
