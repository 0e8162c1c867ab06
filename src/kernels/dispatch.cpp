#include <atomic>
#include <cstdlib>

#include "lace/error.h"

#include "kernels/kernel.h"
#include "kernels/recorded.h"

namespace lace {

std::atomic<const char*> last_kernel_name{""};

namespace {

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

// The kernel that LACE_KERNEL names, or null.
const char* forced_name() {
  const char* name = std::getenv("LACE_KERNEL");
  return name != nullptr && *name != '\0' ? name : nullptr;
}

}  // namespace

const Kernel& find_kernel(std::string_view name) {
  for (const Kernel& kernel : kernels()) {
    if (kernel.name == name) return kernel;
  }
  throw Error(concat("[kernel] there is no kernel named '", name, "'; there are ", kernel_names()));
}

const Kernel& select_kernel(const AttentionShape& shape) {
  if (const char* forced = forced_name()) {
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

std::string passed_over(const AttentionShape& shape) {
  std::string reasons;
  if (forced_name() != nullptr) return reasons;
  for (const Kernel& kernel : kernels()) {
    if (kernel.device != shape.device || !kernel.unavailable().empty()) continue;
    const std::string reason = kernel.unsupported(shape);
    if (reason.empty()) break;
    reasons += concat(reasons.empty() ? "" : "\n", kernel.name, ": ", reason);
  }
  return reasons;
}

bool is_aligned(const Tensor4& tensor, DType dtype, int64_t batch, int64_t heads, int64_t rows) {
  constexpr int64_t kBytes = 16;
  const auto fits = [&](int64_t size, int64_t stride) {
    return size <= 1 || (stride > 0 && stride * size_bytes(dtype) % kBytes == 0);
  };
  return reinterpret_cast<uintptr_t>(tensor.data) % kBytes == 0 &&
         fits(batch, tensor.batch_stride) && fits(heads, tensor.head_stride) &&
         fits(rows, tensor.row_stride);
}

std::string_view last_kernel() { return last_kernel_name.load(); }

}  // namespace lace
