#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "kernels/elementwise/elementwise.h"

namespace lace::cuda::elementwise {

constexpr int kMostSums = 3;

// Enqueues: sums[q] = Σ_p partials[p, q], in one order, for q < quantities whose sums are wanted.
//   partials f32 [count, quantities, stride], of which the first `columns` count
void finish_sums(const float* partials, int64_t count, int quantities, int64_t stride,
                 int64_t columns, const ColumnSum (&sums)[kMostSums], cudaStream_t stream);

}  // namespace lace::cuda::elementwise
