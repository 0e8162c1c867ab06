#include <array>
#include <atomic>
#include <cstdlib>

#include "lace/error.h"

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/kernel.h"
#include "kernels/reference/reference.h"

namespace lace {
namespace {

std::atomic<const char*> last_name{""};

// `kKernel` with runs that tell last_kernel() its name.
template <const Kernel& kKernel>
Kernel recorded() {
  Kernel kernel = kKernel;
  kernel.forward = [](const Context& context, const Plan& plan, const ForwardArgs& args) {
    last_name = kKernel.name.data();
    kKernel.forward(context, plan, args);
  };
  kernel.backward = [](const Context& context, const Plan& plan, const Plan& transposed,
                       const BackwardArgs& args) {
    last_name = kKernel.name.data();
    kKernel.backward(context, plan, transposed, args);
  };
  return kernel;
}

std::string_view device_name(Device device) { return device == Device::kCpu ? "cpu" : "cuda"; }

std::string kernel_names() {
  std::string names;
  for (const Kernel& kernel : kernels()) names += concat(names.empty() ? "" : ", ", kernel.name);
  return names;
}

// Why `kernel` cannot compute `shape` here, or empty.
std::string refusal(const Kernel& kernel, const AttentionShape& shape) {
  if (kernel.device != shape.device) {
    return concat("it runs on ", device_name(kernel.device), ", the tensors are on ",
                  device_name(shape.device));
  }
  const std::string reason = kernel.unavailable();
  return reason.empty() ? kernel.unsupported(shape) : reason;
}

}  // namespace

std::span<const Kernel> kernels() {
  static const std::array kTable = {
      recorded<cpu::kAvx512Bf16>(), recorded<cpu::kAvx512>(),       recorded<cpu::kAvx2>(),
      recorded<cpu::kPortable>(),   recorded<reference::kKernel>(),
  };
  return kTable;
}

const Kernel& find_kernel(std::string_view name) {
  for (const Kernel& kernel : kernels()) {
    if (kernel.name == name) return kernel;
  }
  throw Error(concat("[kernel] there is no kernel named '", name, "'; there are ", kernel_names()));
}

const Kernel& select_kernel(const AttentionShape& shape) {
  const char* forced = std::getenv("LACE_KERNEL");
  if (forced != nullptr && *forced != '\0') {
    const Kernel& kernel = find_kernel(forced);
    const std::string reason = refusal(kernel, shape);
    LACE_CHECK(reason.empty(), "[attention] LACE_KERNEL=", forced, " cannot run: ", reason);
    return kernel;
  }
  std::string reasons;
  for (const Kernel& kernel : kernels()) {
    const std::string reason = refusal(kernel, shape);
    if (reason.empty()) return kernel;
    reasons += concat("\n  ", kernel.name, ": ", reason);
  }
  throw Error("[attention] no kernel can compute this:" + reasons);
}

std::string_view last_kernel() { return last_name.load(); }

}  // namespace lace
