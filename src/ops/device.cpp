#include "lace/device.h"

#include <cctype>

#include "lace/error.h"

#include "ops/device_stream.h"

namespace lace {

namespace {

// The index in "cuda:1"; −1 if `text` is no such text.
int gpu_index(const std::string& text) {
  if (text == "cuda") return 0;
  const std::string digits = text.starts_with("cuda:") ? text.substr(5) : "";
  if (digits.empty() || digits.size() > 2) return -1;
  for (const char c : digits) {
    if (std::isdigit(static_cast<unsigned char>(c)) == 0) return -1;
  }
  return std::stoi(digits);
}

}  // namespace

c10::Device find_device(const std::string& text) {
  if (text == "cpu") return c10::kCPU;
  const int index = gpu_index(text);
  LACE_CHECK(index >= 0, "[device] a device is cpu, cuda or cuda:N, got ", text);
  LACE_CHECK(ops::kBuiltWithCuda, "[device] ", text,
             " needs a build with CUDA (cmake --preset cuda), this one has none");
  const auto count = static_cast<int>(ops::gpus().size());
  LACE_CHECK(count > 0, "[device] ", text, " needs a GPU, the CUDA driver shows none");
  LACE_CHECK(index < count, "[device] the GPUs are cuda:0 to cuda:", count - 1, ", got ", text);
  return {c10::kCUDA, static_cast<c10::DeviceIndex>(index)};
}

std::string gpu_name(c10::Device device) {
  if (!device.is_cuda()) return "";
  const auto gpus = ops::gpus();
  const auto index = static_cast<size_t>(device.has_index() ? device.index() : 0);
  return index < gpus.size() ? gpus[index].name : "unknown";
}

}  // namespace lace
