#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "kernels/cuda/device_plan.h"
#include "kernels/kernel.h"

namespace lace::cuda::portable {

constexpr float kLog2E = 1.4426950408889634f;

// A Tensor4 as kernels take it.
struct Rows {
  void* data = nullptr;
  int64_t batch_stride = 0, head_stride = 0, row_stride = 0;
  bool aligned = false;  // inputs: every row to 16 bytes; outputs: to 4

  template <typename T>
  __host__ __device__ T* head(int batch_index, int head_index) const {
    return static_cast<T*>(data) + batch_index * batch_stride + head_index * head_stride;
  }
};

// One launch computes pass `pass` of every head's group that has it.
struct ForwardLaunch {
  DevicePlan plan;
  AttentionShape shape;
  int pass = 0;
  int32_t tile_begin = -1, tile_end = -1;  // of the pass, if all heads are of one group
  bool last_pass = false;
  bool negative = false;  // logits are negated first
  float scale = 0;        // |scale| · log2(e), > 0
  Rows q, k, v, out;
  float* lse = nullptr;      // [batch, heads, q_len]
  float* partial = nullptr;  // [batch, heads, q_len, v_dim]: out so far; null with one pass only
};

// What backward needs of a query: lse · log2(e), +∞ for a row without keys, and rowsum(dout · out).
struct RowStatistics {
  float lse, delta;
};

// One launch computes pass `pass` for the query heads kv · ratio + member.
// keys: owners are keys; x0 = k, x1 = v, y0 = q, y1 = dout, d0 = dk, d1 = dv.
// else: owners are queries; x0 = q, x1 = dout, y0 = k, y1 = v, d0 = dq; member is −1 and every
// query head is computed.
struct BackwardLaunch {
  DevicePlan plan;
  AttentionShape shape;
  int pass = 0;
  int32_t tile_begin = -1, tile_end = -1;  // of the pass, if all heads are of one group
  int member = -1;
  bool first = false, last = false;  // of the launches that add to the same gradients
  int stages = 1;                    // chunks of y0, y1 in shared memory
  float scale = 0, scale_log2 = 0;
  Rows x0, x1, y0, y1, d0, d1;
  const RowStatistics* statistics = nullptr;  // [batch, heads, q_len]
  float *partial0 = nullptr,
        *partial1 = nullptr;  // d0, d1 so far, contiguous; null with one launch
};

// The kernels of one dtype, chosen by head_dim: the smallest that has room for (qk_dim, v_dim).
// Blocks of the grid: `tiles` in x, heads in y, batch in z.
struct Launchers {
  void (*forward)(const ForwardLaunch&, int tiles, cudaStream_t);
  void (*statistics)(const BackwardLaunch&, const Rows& out, const Rows& dout, const float* lse,
                     RowStatistics* statistics, cudaStream_t);
  void (*backward_keys)(BackwardLaunch, int tiles, cudaStream_t);
  void (*backward_queries)(BackwardLaunch, int tiles, cudaStream_t);
};
extern const Launchers kBFloat16Launchers, kFloat16Launchers;

}  // namespace lace::cuda::portable
