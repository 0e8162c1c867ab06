#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/cuda_check.h"

namespace lace::cuda {

// Milliseconds between two places of a stream.
class Timer {
 public:
  explicit Timer(cudaStream_t stream) : stream_(stream) {
    LACE_CUDA(cudaEventCreate(&begin_));
    LACE_CUDA(cudaEventCreate(&end_));
  }
  ~Timer() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  template <typename Work>
  float ms(Work work) const {
    LACE_CUDA(cudaEventRecord(begin_, stream_));
    work();
    LACE_CUDA(cudaEventRecord(end_, stream_));
    LACE_CUDA(cudaEventSynchronize(end_));
    float elapsed = 0;
    LACE_CUDA(cudaEventElapsedTime(&elapsed, begin_, end_));
    return elapsed;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

}  // namespace lace::cuda
