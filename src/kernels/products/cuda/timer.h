#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include <cuda_runtime_api.h>

#include "kernels/cuda/cuda_check.h"

namespace lace::cuda::products {

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

// Which of `count` ways to do the same is the fastest: run(way) enqueues it. Waits for the GPU.
template <typename Run>
size_t fastest(size_t count, cudaStream_t stream, const Run& run) {
  const Timer timer(stream);
  constexpr int kRounds = 3, kCalls = 4;
  std::vector<float> best(count, INFINITY);
  for (int round = 0; round < kRounds; ++round) {
    for (size_t way = 0; way < count; ++way) {
      run(way);
      best[way] = std::min(best[way], timer.ms([&] {
        for (int call = 0; call < kCalls; ++call) run(way);
      }));
    }
  }
  return static_cast<size_t>(std::min_element(best.begin(), best.end()) - best.begin());
}

}  // namespace lace::cuda::products
