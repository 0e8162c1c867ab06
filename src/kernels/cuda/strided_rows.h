#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "kernels/kernel.h"

namespace lace::cuda {

// A Tensor4 as kernels take it.
struct StridedRows {
  void* data = nullptr;
  int64_t batch_stride = 0, head_stride = 0, row_stride = 0;
  bool aligned = false;  // every row to 16 bytes, and 2 · row_stride < 2³¹

  template <typename T>
  __host__ __device__ T* head(int batch_index, int head_index) const {
    return static_cast<T*>(data) + batch_index * batch_stride + head_index * head_stride;
  }
};

// Of 16-bit elements.
StridedRows rows_of(const Tensor4& tensor);

}  // namespace lace::cuda
