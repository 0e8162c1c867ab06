#include "kernels/cuda/device_array.h"

#include <cmath>

#include <cuda_runtime_api.h>

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/cuda_machine.h"
#include "kernels/reference/element.h"

namespace lace::test {

Workspace to_device(const void* data, size_t bytes) {
  Workspace memory = device_memory(bytes);
  LACE_CUDA(cudaMemcpy(memory.get(), data, bytes, cudaMemcpyHostToDevice));
  LACE_CUDA(cudaDeviceSynchronize());  // streams other than the copy's read it
  return memory;
}

DeviceArray::DeviceArray(DType dtype, const std::vector<double>& values, bool shifted)
    : dtype_(dtype), count_(values.size()) {
  reference::dispatch_element(dtype, [&]<typename Element>() {
    std::vector<typename Element::Type> elements(shifted ? 1 : 0);
    for (const double value : values) elements.push_back(Element::store(value));
    memory_ = to_device(elements);
  });
  data_ = memory_.get() + (shifted ? size_bytes(dtype) : 0);
}

DeviceArray::DeviceArray(DType dtype, int64_t count, bool shifted)
    : DeviceArray(dtype, std::vector<double>(static_cast<size_t>(count), NAN), shifted) {}

std::vector<double> DeviceArray::values() const {
  std::vector<double> values;
  LACE_CUDA(cudaDeviceSynchronize());
  reference::dispatch_element(dtype_, [&]<typename Element>() {
    std::vector<typename Element::Type> elements(count_);
    LACE_CUDA(cudaMemcpy(elements.data(), data_, elements.size() * sizeof(elements[0]),
                         cudaMemcpyDeviceToHost));
    for (const auto element : elements) values.push_back(Element::load(element));
  });
  return values;
}

}  // namespace lace::test
