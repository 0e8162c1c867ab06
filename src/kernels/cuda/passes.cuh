#pragma once

#include "kernels/cuda/pass_order.h"

// What kernels ask of passes (pass_order.h), and how they wait for each other.

namespace lace::cuda {

// Whether another pass covers row `row` of a tile: `rows` and `bits` of an OrderedTile.
__device__ inline bool row_in(const uint32_t* row_bits, int32_t rows, int32_t bits, int row) {
  return rows == kAll || (rows == kSome && (row_bits[bits + row / 32] >> (row % 32) & 1) != 0);
}

// Waits until `count` tiles have counted themselves. What they stored before is then visible to
// this thread, and to those that it meets at a barrier, past L1.
__device__ inline void wait_for_count(const int32_t* done, int32_t count) {
  int32_t found = 0;
  while (true) {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(found) : "l"(done) : "memory");
    if (found >= count) return;
    __nanosleep(64);
  }
}

// Counts a tile whose results this thread, and those that it met at a barrier, have stored.
__device__ inline void count_tile(int32_t* done) {
  asm volatile("red.release.gpu.global.add.s32 [%0], %1;" ::"l"(done), "r"(1) : "memory");
}

}  // namespace lace::cuda
