#include <atomic>
#include <cstdlib>
#include <string>
#include <string_view>

#include "lace/error.h"

#include "kernels/kernel.h"
#include "kernels/recorded.h"

namespace lace {

std::atomic<const char*> last_kernel_name{""};

namespace {

constexpr const char* kNoCuda = "this lace was built without CUDA";

std::string_view device_name(Device device) { return device == Device::kCpu ? "cpu" : "cuda"; }

std::string kernel_names() {
  std::string names;
  for (const Kernel& kernel : kernels()) names += concat(names.empty() ? "" : ", ", kernel.name);
  return names;
}

// Why `kernel` cannot compute `shape` here; no reason if it can.
struct Refusal {
  std::string reason;
  bool is_of_shape = false;  // the kernel could run here, on tensors there
};
Refusal refuse(const Kernel& kernel, const AttentionShape& shape) {
  if (kernel.device != shape.device) {
    return {concat("it runs on ", device_name(kernel.device), ", the tensors are on ",
                   device_name(shape.device))};
  }
  if (const std::string reason = kernel.unavailable(); !reason.empty()) return {reason};
  return {kernel.unsupported(filled(kernel, shape)), true};
}

// Lines "\n  name: reason" of kernels in the table's order; neighbours of one reason share a line.
class Reasons {
 public:
  void add(std::string_view name, const std::string& reason) {
    if (reason == last_) {
      names_ += concat(", ", name);
      return;
    }
    done_ = text();
    names_ = name;
    last_ = reason;
  }
  std::string text() const {
    return names_.empty() ? done_ : concat(done_, "\n  ", names_, ": ", last_);
  }

 private:
  std::string done_, names_, last_;
};

}  // namespace

AttentionShape filled(const Kernel& kernel, const AttentionShape& shape) {
  if (kernel.dim_multiple == nullptr) return shape;
  const int64_t multiple = kernel.dim_multiple(shape);
  const auto up = [&](int64_t dim) { return (dim + multiple - 1) / multiple * multiple; };
  AttentionShape result = shape;
  result.qk_dim = up(shape.qk_dim);
  result.v_dim = up(shape.v_dim);
  if (result.qk_dim != shape.qk_dim || result.v_dim != shape.v_dim) result.aligned = true;
  return result;
}

const Kernel& find_kernel(std::string_view name) {
  for (const Kernel& kernel : kernels()) {
    if (kernel.name == name) return kernel;
  }
  for (const std::string_view absent : kernels_without_cuda())
    LACE_CHECK(absent != name, "[kernel] ", name, " is not there: ", kNoCuda);
  throw Error(concat("[kernel] there is no kernel named '", name, "'; there are ", kernel_names()));
}

const Kernel& select_kernel(const AttentionShape& shape, std::string* passed_over) {
  if (passed_over != nullptr) passed_over->clear();
  const char* forced = std::getenv("LACE_KERNEL");
  if (forced != nullptr && *forced != '\0') {
    const Kernel& kernel = find_kernel(forced);
    const Refusal refusal = refuse(kernel, shape);
    LACE_CHECK(refusal.reason.empty(), "[attention] LACE_KERNEL=", forced,
               " cannot run: ", refusal.reason);
    return kernel;
  }
  Reasons all, of_shape;
  for (const Kernel& kernel : kernels()) {
    const Refusal refusal = refuse(kernel, shape);
    if (refusal.reason.empty()) {
      if (passed_over != nullptr) *passed_over = of_shape.text();
      return kernel;
    }
    all.add(kernel.name, refusal.reason);
    if (refusal.is_of_shape) of_shape.add(kernel.name, refusal.reason);
  }
  if (shape.device == Device::kCuda)
    for (const std::string_view absent : kernels_without_cuda()) all.add(absent, kNoCuda);
  throw Error("[attention] no kernel can compute this:" + all.text());
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
