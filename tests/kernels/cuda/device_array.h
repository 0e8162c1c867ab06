#pragma once

#include <cstdint>
#include <vector>

#include "core/context.h"
#include "core/dtype.h"

namespace lace::test {

// Numbers in device memory, behind which nothing may be written (device_memory).
class DeviceArray {
 public:
  // Rounds `values` to `dtype`. Begins at a multiple of 16 bytes, or `shifted`, one element on.
  DeviceArray(DType dtype, const std::vector<double>& values, bool shifted = false);
  // `count` times NaN.
  DeviceArray(DType dtype, int64_t count, bool shifted = false);
  void* data() const { return data_; }
  // Waits for the GPU.
  std::vector<double> values() const;

 private:
  DType dtype_;
  size_t count_;
  Workspace memory_;
  std::byte* data_;
};

// A copy in device memory.
Workspace to_device(const void* data, size_t bytes);
template <typename T>
Workspace to_device(const std::vector<T>& values) {
  return to_device(values.data(), values.size() * sizeof(T));
}

}  // namespace lace::test
