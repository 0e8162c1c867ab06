#include <cmath>

#include "kernels/elementwise/cuda/functions.h"
#include "kernels/elementwise/cuda/launch.h"
#include "kernels/elementwise/cuda/vectors.cuh"

namespace lace::cuda::elementwise {
namespace {

// A warp a row, kWidth neighbouring columns a lane at a time.
constexpr int kThreads = 256;
constexpr int kRows = kThreads / 32;

// Σ exp(x) as most and Σ exp(x − most).
struct ExpSum {
  float most = -INFINITY, sum = 0;
};

// −∞ − −∞ would not be a number.
__device__ float finite_shift(float most) { return most == -INFINITY ? 0.0f : most; }

__device__ ExpSum together(const ExpSum& a, const ExpSum& b) {
  const float most = fmaxf(a.most, b.most), shift = finite_shift(most);
  return {most, a.sum * __expf(a.most - shift) + b.sum * __expf(b.most - shift)};
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    loss_kernel(const T* __restrict__ logits, const int64_t* __restrict__ targets,
                float* __restrict__ nats, float* __restrict__ lse, int64_t rows, int64_t columns) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / 32;
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const T* of_row = logits + row * columns;
  const float target = to_float(of_row[targets[row]]);
  ExpSum sum;
#pragma unroll 2
  for (int64_t column = lane * kWidth; column < columns; column += 32 * kWidth) {
    float values[kWidth];
    Vector<T, kWidth>::load(of_row + column).unpack_to(values);
    ExpSum own;
#pragma unroll
    for (int k = 0; k < kWidth; k++) own.most = fmaxf(own.most, values[k]);
    const float shift = finite_shift(own.most);
#pragma unroll
    for (int k = 0; k < kWidth; k++) own.sum += __expf(values[k] - shift);
    sum = together(sum, own);
  }
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    // The lower lane's first, so that both get the same bits.
    const ExpSum other = {__shfl_xor_sync(~0u, sum.most, lanes),
                          __shfl_xor_sync(~0u, sum.sum, lanes)};
    sum = (lane & lanes) == 0 ? together(sum, other) : together(other, sum);
  }
  if (lane != 0) return;
  const float log_sum = finite_shift(sum.most) + logf(sum.sum);
  lse[row] = log_sum;
  nats[row] = log_sum - target;
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    loss_grad_kernel(const T* logits, const int64_t* __restrict__ targets,
                     const float* __restrict__ lse, float scale, const double* __restrict__ factor,
                     T* dlogits, int64_t rows, int64_t columns) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / 32;
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (factor != nullptr) scale *= static_cast<float>(*factor);
  const int64_t start = row * columns, target = targets[row];
  const float row_lse = lse[row];
#pragma unroll 2
  for (int64_t column = lane * kWidth; column < columns; column += 32 * kWidth) {
    float values[kWidth];
    Vector<T, kWidth>::load(logits + start + column).unpack_to(values);
#pragma unroll
    for (int k = 0; k < kWidth; k++) {
      values[k] = scale * (__expf(values[k] - row_lse) - (column + k == target ? 1.0f : 0.0f));
    }
    Vector<T, kWidth>::packed(values).store(dlogits + start + column);
  }
}

// Calls function(element, width) for vectors as wide as rows allow.
template <typename Function>
void with_vectors(const Elements& elements, bool aligned, Function function) {
  with_element(elements.compute, [&](auto element) {
    if (aligned && elements.columns % 8 == 0) {
      function(element, std::integral_constant<int, 8>());
    } else {
      function(element, std::integral_constant<int, 1>());
    }
  });
}

}  // namespace

void cross_entropy(const Context& context, const CrossEntropyArgs& args) {
  const int64_t rows = args.elements.rows, columns = args.elements.columns;
  if (rows == 0) return;
  const auto blocks = static_cast<unsigned>(cover(rows, kRows));
  with_vectors(args.elements, begin_aligned(args.logits), [&](auto element, auto width) {
    using T = decltype(element);
    loss_kernel<T, decltype(width)::value><<<blocks, kThreads, 0, stream_of(context)>>>(
        static_cast<const T*>(args.logits), args.targets, static_cast<float*>(args.nats),
        static_cast<float*>(args.lse), rows, columns);
  });
  LACE_CUDA(cudaGetLastError());
}

void cross_entropy_grad(const Context& context, const CrossEntropyGradArgs& args) {
  const int64_t rows = args.elements.rows, columns = args.elements.columns;
  if (rows == 0) return;
  const auto blocks = static_cast<unsigned>(cover(rows, kRows));
  const bool aligned = begin_aligned(args.logits, args.dlogits);
  with_vectors(args.elements, aligned, [&](auto element, auto width) {
    using T = decltype(element);
    loss_grad_kernel<T, decltype(width)::value><<<blocks, kThreads, 0, stream_of(context)>>>(
        static_cast<const T*>(args.logits), args.targets, static_cast<const float*>(args.lse),
        static_cast<float>(args.scale), args.factor, static_cast<T*>(args.dlogits), rows, columns);
  });
  LACE_CUDA(cudaGetLastError());
}

}  // namespace lace::cuda::elementwise
