#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "kernels/cuda/backward_rows.h"
#include "kernels/cuda/sm90/tensor_maps.h"
#include "kernels/cuda/sm90/uploaded_work.h"

namespace lace::sm90 {

using cuda::BackwardMode;
using cuda::RowStatistics;
using cuda::StridedRows;

// A gradient [batch, heads, rows, dim], and where rows that a later pass finishes (or all rows, if
// `only_sums`) leave their sums (SumRows) [batch, heads of the items, rows, BackwardKernel::dim],
// not scaled yet: kKeys whole floats; the others, which shall take less memory, their high and
// their low 16 bits, which they add at the end. The high ones may lie where the result will. If
// `shares_sums`, all query heads of a key head add to its sums [batch, key heads, rows, dim].
struct Gradient {
  StridedRows result;
  float* sums = nullptr;
  StridedRows high, low;
  int32_t dim = 0;
};

// What one launch reads. Owners x, others y: x0 and y0 are of q and k, x1 and y1 of dout and v.
struct BackwardParams {
  CUtensorMap x0[kMaps], x1[kMaps], y0[kMaps], y1[kMaps];
  MapSteps x0_steps, x1_steps, y0_steps, y1_steps;
  ItemQueue queue;
  const RowStatistics* statistics = nullptr;  // [batch, heads, q_len]
  // kKeys: sums of all rows, in planes of kDqPlane columns (cuda::SumRows), added to; without, each
  // query is in one tile alone.
  Gradient dq;
  Gradient d0, d1;  // of x0, and of x1 where owners are keys; of those, those of the mode
  float scale = 0;  // of d0
  float cap_scale = 0, scale_log2 = 0;  // as in ForwardParams
  int32_t heads = 0, heads_per_kv = 1;  // of queries
  int32_t members = 1;                  // query heads of an item
  int32_t q_len = 0, owner_len = 0;     // rows of a batch element in memory
  bool only_sums = false, shares_sums = false;
};

// Columns of dq that one copy adds.
inline constexpr int32_t kDqPlane = 64;

// Rows of a tile that a kernel works on, at most: plans are compiled for them.
constexpr TileShape backward_tile(int dim, BackwardMode mode) {
  return {128, dim == 64 || (dim == 128 && mode == BackwardMode::kQueries) ? 128 : 64};
}

// One compiled kernel: the only place that says what it has room for.
struct BackwardKernel {
  int32_t dim = 0;  // columns of every tensor, and of sums
  TileShape tile;
  // Enqueues `grid` blocks.
  void (*launch)(const BackwardParams& params, int grid, cudaStream_t stream) = nullptr;
};

// Instantiated once each, in instantiations/. kCaps: for calls with a softcap too, whose code would
// stand between the instructions of all others.
template <typename Element, int kDim, BackwardMode kMode, bool kCaps>
BackwardKernel make_backward_kernel();

}  // namespace lace::sm90
