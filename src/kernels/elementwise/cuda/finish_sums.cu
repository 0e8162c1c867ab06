#include "kernels/elementwise/cuda/finish_sums.h"
#include "kernels/elementwise/cuda/launch.h"

namespace lace::cuda::elementwise {
namespace {

constexpr int kLines = 32;  // threads that share a column

struct Sums {
  float* data[kMostSums];
  bool add[kMostSums];
};

__global__ void __launch_bounds__(32 * kLines)
    finish_kernel(const float* __restrict__ partials, int64_t count, int64_t stride,
                  int64_t columns, Sums sums) {
  __shared__ float lines[kLines][33];
  const int quantity = static_cast<int>(blockIdx.y), quantities = static_cast<int>(gridDim.y);
  float* data = sums.data[quantity];
  if (data == nullptr) return;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  float sum = 0;
  if (column < columns) {
#pragma unroll 8
    for (int64_t p = threadIdx.y; p < count; p += kLines) {
      sum += partials[(p * quantities + quantity) * stride + column];
    }
  }
  lines[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
#pragma unroll
  for (int line = 1; line < kLines; line++) sum += lines[line][threadIdx.x];
  data[column] = sums.add[quantity] ? data[column] + sum : sum;
}

}  // namespace

void finish_sums(const float* partials, int64_t count, int quantities, int64_t stride,
                 int64_t columns, const ColumnSum (&sums)[kMostSums], cudaStream_t stream) {
  Sums wanted = {};
  for (int q = 0; q < quantities; q++) {
    wanted.data[q] = static_cast<float*>(sums[q].data);
    wanted.add[q] = sums[q].add;
  }
  const dim3 grid(static_cast<unsigned>(cover(columns, 32)), static_cast<unsigned>(quantities));
  finish_kernel<<<grid, dim3(32, kLines), 0, stream>>>(partials, count, stride, columns, wanted);
  LACE_CUDA(cudaGetLastError());
}

}  // namespace lace::cuda::elementwise
