#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "kernels/cuda/strided_rows.h"
#include "kernels/kernel.h"

namespace lace::cuda {

// How a launch of either GPU kernel computes gradients; the last two are for Hopper alone.
enum class BackwardMode {
  kKeys,       // owners are keys: dk and dv; dq is added to in global memory
  kKeysAlone,  // owners are keys: dk and dv
  kQueries,    // owners are queries: dq
  kDkAlone,    // owners are keys: dk
  kDvAlone,    // owners are keys: dv
};
inline constexpr int kBackwardModes = 5;

// What backward does row by row, before and after its products, for both GPU kernels.

// Of a query: its log-sum-exp in base 2 (+∞ for a row without keys, whose weights then are 0), and
// rowsum(dout · out) − dlse (0 for such a row).
struct alignas(8) RowStatistics {
  float lse, delta;
};

// Of rows [batch, heads, rows, dim].
struct RowsShape {
  int64_t batch, heads, rows;
  int32_t dim;
};

// fp32 sums [batch, heads, rows, dim], dim a multiple of 16, where of 16 columns 8 h + 2 c + b
// stands at 4 c + 2 h + b, as accumulators hold them, so that threads move 16 bytes at a time.
// Either whole, or their high and their low 16 bits. In `planes` of equal width, one after the
// other for each head: [batch, heads, planes, rows, dim / planes].
struct SumRows {
  const float* whole = nullptr;
  const uint16_t *high = nullptr, *low = nullptr;
  int32_t dim = 0, planes = 1;
};

// What statistics read and write beside them, [batch, heads, rows] contiguous: lse, natural log,
// its gradient dlse (null: 0), and deltas (null: not asked for).
struct LseRows {
  const float *lse = nullptr, *dlse = nullptr;
  float* deltas = nullptr;
};
inline LseRows lse_rows(const BackwardArgs& args) {
  return {static_cast<const float*>(args.lse), static_cast<const float*>(args.dlse),
          static_cast<float*>(args.delta)};
}

// Enqueues on `stream`: statistics [batch, heads, rows] of out and dout, a multiple of 8 columns,
// and of `lse`; and sums [batch, heads, rows, sums_dim] = 0, if not null.
template <typename Element>
void launch_statistics(const RowsShape& shape, const StridedRows& out, const StridedRows& dout,
                       const LseRows& lse, RowStatistics* statistics, float* sums, int32_t sums_dim,
                       cudaStream_t stream);

// Enqueues on `stream`: result, a multiple of 8 columns, = scale · the sums of every `members`
// neighbouring heads.
template <typename Element>
void launch_round(const RowsShape& shape, const SumRows& sums, int32_t members, float scale,
                  const StridedRows& result, cudaStream_t stream);

}  // namespace lace::cuda
