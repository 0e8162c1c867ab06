#pragma once

#include <atomic>

#include "kernels/kernel.h"

namespace lace {

// What last_kernel() tells.
extern std::atomic<const char*> last_kernel_name;

// `kKernel` with runs that tell last_kernel() its name.
template <const Kernel& kKernel>
Kernel recorded() {
  Kernel kernel = kKernel;
  kernel.forward = [](const Context& context, const Plan& plan, const ForwardArgs& args) {
    last_kernel_name = kKernel.name.data();
    kKernel.forward(context, plan, args);
  };
  kernel.backward = [](const Context& context, const Plan& plan, const Plan& transposed,
                       const BackwardArgs& args) {
    last_kernel_name = kKernel.name.data();
    kKernel.backward(context, plan, transposed, args);
  };
  return kernel;
}

}  // namespace lace
