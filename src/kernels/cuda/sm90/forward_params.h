#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "kernels/cuda/sm90/tensor_maps.h"
#include "kernels/cuda/sm90/uploaded_work.h"

namespace lace::sm90 {

// What one launch of the forward kernel reads. Strides in elements.
struct ForwardParams {
  CUtensorMap q[kMaps], k[kMaps], v[kMaps];
  MapSteps q_steps, k_steps, v_steps;
  ItemQueue queue;
  void* out = nullptr;   // [batch, heads, q_len, v_dim]
  float* lse = nullptr;  // [batch, heads, q_len]; between passes that of the keys so far, in base 2
  // [batch, heads, q_len, ForwardKernel::v_dim] (sums.cuh): rows that a later pass joins.
  float* partial = nullptr;
  const float* sinks = nullptr;  // [heads], as ForwardArgs has them
  int64_t out_batch_stride = 0, out_head_stride = 0, out_row_stride = 0;
  float cap_scale = 0;   // scale / softcap; 0 where there is none
  float scale_log2 = 0;  // scale, or softcap, · log2(e), > 0
  int32_t heads_per_kv = 1;
  int32_t q_len = 0, v_dim = 0;
};

enum class ForwardTiling {
  kStandard,
  kWide,   // for queries that see many keys
  kShort,  // two blocks a multiprocessor, for queries that see few
  kDeep,   // for head_dims past 128: one stage of queries
};
// Queries and keys of a tile, at most: plans are compiled for them.
constexpr TileShape tile_of(ForwardTiling tiling) {
  switch (tiling) {
    case ForwardTiling::kWide:
      return {192, 128};
    case ForwardTiling::kShort:
    case ForwardTiling::kDeep:
      return {128, 64};
    default:
      return {128, 128};
  }
}
// Those that know softcaps.
constexpr bool caps(ForwardTiling tiling) {
  return tiling == ForwardTiling::kStandard || tiling == ForwardTiling::kDeep;
}
static_assert(tile_of(ForwardTiling::kWide) == TileShape{kOwnerRows, kOtherRows});

// One compiled kernel: the only place that says what it has room for.
struct ForwardKernel {
  ForwardTiling tiling = ForwardTiling::kStandard;
  int32_t blocks = 1;             // a multiprocessor
  int32_t qk_dim = 0, v_dim = 0;  // columns of q and k, and of v and of partial results
  // Enqueues `grid` blocks.
  void (*launch)(const ForwardParams& params, int grid, cudaStream_t stream) = nullptr;

  bool fits(int64_t columns_qk, int64_t columns_v) const {
    return columns_qk <= qk_dim && columns_v <= v_dim;
  }
};

// Instantiated once each, in instantiations/.
template <typename Element, int kQkDim, int kVDim, ForwardTiling kTiling>
ForwardKernel make_forward_kernel();

}  // namespace lace::sm90
