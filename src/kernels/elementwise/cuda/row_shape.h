#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/elementwise/cuda/launch.h"

namespace lace::cuda::elementwise {

// How kernels hold a row in registers: kLanes threads share it, each with up to kVectors vectors of
// four columns, which stand 4 · kLanes columns apart. A block has whole rows: 4 where a warp shares
// one, else 1.
template <int kLanesOfRow, int kVectorsOfLane>
struct RowShape {
  static constexpr int kLanes = kLanesOfRow, kVectors = kVectorsOfLane;
  static constexpr int kThreads = kLanes == 32 ? 128 : kLanes;
  static constexpr int kRows = kThreads / kLanes;
};

constexpr int64_t kMostColumns = 4096;  // that registers hold

// Calls function(RowShape) with the smallest that has `columns`, at most kMostColumns, in
// kMostVectors vectors a lane, 2 or 4: with 2 a kernel has registers left for more of a row, but
// from 257 columns on several warps share it.
template <int kMostVectors, typename Function>
void with_row_shape(int64_t columns, Function function) {
  constexpr int kHalves = 4 / kMostVectors;
  if (columns <= 128) {
    function(RowShape<32, 1>());
  } else if (columns <= 256) {
    function(RowShape<32, 2>());
  } else if (columns <= 512) {
    function(RowShape<32 * kHalves, kMostVectors>());
  } else if (columns <= 1024) {
    function(RowShape<128, 2>());
  } else if (columns <= 2048) {
    function(RowShape<128 * kHalves, kMostVectors>());
  } else {
    function(RowShape<256 * kHalves, kMostVectors>());
  }
}

// Blocks that walk over `rows` together, `threads` of each multiprocessor at once; at least one.
inline unsigned row_blocks(int64_t rows, int rows_of_block, int threads_of_block, int threads) {
  const int64_t at_once = multiprocessors() * (threads / threads_of_block);
  return static_cast<unsigned>(std::max<int64_t>(1, std::min(cover(rows, rows_of_block), at_once)));
}

}  // namespace lace::cuda::elementwise
