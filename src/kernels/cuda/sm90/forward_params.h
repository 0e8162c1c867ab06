#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "kernels/cuda/sm90/uploaded_work.h"

namespace lace::sm90 {

// What one launch of the forward kernel reads. Strides in elements.
struct ForwardParams {
  CUtensorMap q[kMaps], k[kMaps], v[kMaps];
  ItemSpace space;
  void* out = nullptr;   // [batch, heads, q_len, v_dim]
  float* lse = nullptr;  // [batch, heads, q_len]; between passes that of the keys so far, in base 2
  float* partial =
      nullptr;  // [batch, heads, q_len, kVDim] (sums.cuh): rows that a later pass joins
  int64_t out_batch_stride = 0, out_head_stride = 0, out_row_stride = 0;
  float scale_log2 = 0;
  int32_t heads_per_kv = 1;
  int32_t q_len = 0, k_len = 0, v_dim = 0;
};

enum class ForwardTiling {
  kStandard,  // tiles of 128 queries × 128 keys
  kWide,      // 192 × 128, for queries that see many keys; head_dim up to 64
  kShort,     // 128 × 64, two blocks a multiprocessor, for queries that see few; likewise
};
constexpr int forward_blocks(ForwardTiling tiling) {
  return tiling == ForwardTiling::kShort ? 2 : 1;
}

// Enqueues `grid` blocks of the kernel for head_dim up to kQkDim and kVDim.
template <typename Element, int kQkDim, int kVDim, ForwardTiling kTiling>
void launch_forward(const ForwardParams& params, int grid, cudaStream_t stream);

}  // namespace lace::sm90
