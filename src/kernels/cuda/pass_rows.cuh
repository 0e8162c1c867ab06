#pragma once

#include "kernels/cuda/pass_order.h"

namespace lace::cuda {

// Whether another pass covers row `row` of a tile: `rows` and `bits` of an OrderedTile.
__device__ inline bool row_in(const uint32_t* row_bits, int32_t rows, int32_t bits, int row) {
  return rows == kAll || (rows == kSome && (row_bits[bits + row / 32] >> (row % 32) & 1) != 0);
}

}  // namespace lace::cuda
