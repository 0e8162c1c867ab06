#pragma once

#include "kernels/decode/cuda/machine.cuh"

namespace lace::cuda::decode {

// Where all blocks of a launch wait for one another. They must all be on the GPU at once: the
// launch is a cooperative one. words: two, zero; zero again at the end of the launch.
//
// What a block writes before it arrives is there for all after the wait, as long as they read it
// past the cache of their multiprocessor (__ldcg).
class GridBarrier {
 public:
  __device__ explicit GridBarrier(uint32_t* words) : words_(words) {}

  // Between the two a block may do what needs nothing of the others'; what it copies into shared
  // memory meanwhile is there after the wait. Both are called by all of a block's threads.
  __device__ void arrive() {
    __syncthreads();
    goal_ += gridDim.x;
    if (threadIdx.x == 0) add_released(words_, 1);
  }
  __device__ void wait() {
    if (threadIdx.x == 0) {
      while (load_acquired(words_) < goal_) {
      }
    }
    wait_for_copies();
    __syncthreads();
  }

  // Behind the last wait.
  __device__ void end() {
    if (threadIdx.x != 0) return;
    // Who comes here has seen the last arrival of all, so the last of them is the only one left.
    if (atomicAdd(words_ + 1, 1u) + 1 == gridDim.x) {
      words_[0] = 0;
      words_[1] = 0;
    }
  }

 private:
  uint32_t* words_;
  uint32_t goal_ = 0;
};

}  // namespace lace::cuda::decode
