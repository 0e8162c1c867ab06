// The table of a build without CUDA.

#include <array>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/recorded.h"
#include "kernels/reference/reference.h"

namespace lace {

std::span<const Kernel> kernels() {
  static const std::array kTable = {
      recorded<cpu::kAvx512Bf16>(), recorded<cpu::kAvx512>(),       recorded<cpu::kAvx2>(),
      recorded<cpu::kPortable>(),   recorded<reference::kKernel>(),
  };
  return kTable;
}

std::span<const std::string_view> kernels_without_cuda() {
  static constexpr std::array<std::string_view, 2> kNames{"cuda_sm90", "cuda_portable"};
  return kNames;
}

}  // namespace lace
