#include "kernels/elementwise/cuda/functions.h"
#include "kernels/elementwise/cuda/row_shape.h"
#include "kernels/elementwise/cuda/vectors.cuh"

namespace lace::cuda::elementwise {
namespace {

// R: of the residual stream.
template <typename T, typename R>
struct Norm {
  int64_t rows, columns;
  const R* x;
  const T* branch;
  Dropout dropout;
  R* sum;
  const float *weight, *bias;
  float eps;
  T* y;
  float *mean, *rstd;
};

template <typename T, typename R>
Norm<T, R> norm_of(const NormArgs& args) {
  return {args.elements.rows,
          args.elements.columns,
          static_cast<const R*>(args.x),
          static_cast<const T*>(args.branch),
          args.dropout,
          static_cast<R*>(args.sum),
          static_cast<const float*>(args.weight),
          static_cast<const float*>(args.bias),
          static_cast<float>(args.eps),
          static_cast<T*>(args.y),
          static_cast<float*>(args.mean),
          static_cast<float*>(args.rstd)};
}

template <typename T, typename R>
__device__ void store_statistics(const Norm<T, R>& norm, int64_t row, float mean, float rstd) {
  if (norm.mean != nullptr) norm.mean[row] = mean;
  if (norm.rstd != nullptr) norm.rstd[row] = rstd;
}

constexpr int kThreadsAtOnce = 640;

// A multiple of four columns, which a thread's registers hold with their weights.
template <typename T, typename R, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, kThreadsAtOnce / Shape::kThreads)
    norm_kernel(const Norm<T, R> norm) {
  constexpr int kVectors = Shape::kVectors, kLanes = Shape::kLanes;
  const int columns = static_cast<int>(norm.columns);
  const int first = static_cast<int>(threadIdx.x) % kLanes * 4;
  const auto column = [&](int j) { return first + j * kLanes * 4; };
  float4 weight[kVectors], bias[kVectors];
#pragma unroll
  for (int j = 0; j < kVectors; j++) {
    weight[j] = bias[j] = make_float4(0, 0, 0, 0);
    if (norm.y == nullptr || column(j) >= columns) continue;
    weight[j] = load_floats(norm.weight + column(j));
    bias[j] = load_floats(norm.bias + column(j));
  }
  // The next row is on its way while this one is worked on, where registers hold both.
  constexpr bool kAhead = kVectors * sizeof(R) <= 8;
  struct Row {
    Vector<R, 4> x[kVectors];
    Vector<T, 4> branch[kVectors];
  };
  const auto load = [&](int64_t i, Row& to) {
    const int64_t start = from_the_end(i, norm.rows) * columns;
#pragma unroll
    for (int j = 0; j < kVectors; j++) {
      to.x[j] = Vector<R, 4>::zeros();
      to.branch[j] = Vector<T, 4>::zeros();
      if (column(j) >= columns) continue;
      to.x[j] = Vector<R, 4>::load(norm.x + start + column(j));
      if (norm.branch != nullptr) {
        to.branch[j] = Vector<T, 4>::load(norm.branch + start + column(j));
      }
    }
  };
  RowSums<kLanes> row_sum;
  const float of_columns = 1.0f / static_cast<float>(columns);
  const int64_t step = static_cast<int64_t>(gridDim.x) * Shape::kRows;
  int64_t i = static_cast<int64_t>(blockIdx.x) * Shape::kRows + threadIdx.x / kLanes;
  Row next;
  if (kAhead && i < norm.rows) load(i, next);
  for (; i < norm.rows; i += step) {
    Row loaded;
    if constexpr (kAhead) {
      loaded = next;
      if (i + step < norm.rows) load(i + step, next);
    } else {
      load(i, loaded);
    }
    const int64_t row = from_the_end(i, norm.rows);
    const int64_t start = row * columns;
    float4 x[kVectors];
#pragma unroll
    for (int j = 0; j < kVectors; j++) x[j] = loaded.x[j].unpacked();
    if (norm.branch != nullptr) {
      const RowDropout dropout(norm.dropout, row);
#pragma unroll
      for (int j = 0; j < kVectors; j++) {
        const float4 kept = dropout(loaded.branch[j].unpacked(), static_cast<uint32_t>(column(j)));
        x[j].x += kept.x, x[j].y += kept.y, x[j].z += kept.z, x[j].w += kept.w;
        if (column(j) < columns) x[j] = store_four(norm.sum + start + column(j), x[j]);
      }
    }
    if (norm.y == nullptr) continue;
    float total = 0;
#pragma unroll
    for (int j = 0; j < kVectors; j++) total += (x[j].x + x[j].y) + (x[j].z + x[j].w);
    const float mean = row_sum(total) * of_columns;
    float squares = 0;
#pragma unroll
    for (int j = 0; j < kVectors; j++) {
      x[j].x -= mean, x[j].y -= mean, x[j].z -= mean, x[j].w -= mean;
      if (column(j) < columns) {
        squares += (x[j].x * x[j].x + x[j].y * x[j].y) + (x[j].z * x[j].z + x[j].w * x[j].w);
      }
    }
    const float rstd = rsqrtf(row_sum(squares) * of_columns + norm.eps);
#pragma unroll
    for (int j = 0; j < kVectors; j++) {
      if (column(j) >= columns) continue;
      const float4 y = make_float4(
          fmaf(x[j].x * rstd, weight[j].x, bias[j].x), fmaf(x[j].y * rstd, weight[j].y, bias[j].y),
          fmaf(x[j].z * rstd, weight[j].z, bias[j].z), fmaf(x[j].w * rstd, weight[j].w, bias[j].w));
      Vector<T, 4>::packed(y).store(norm.y + start + column(j));
    }
    if (first == 0) store_statistics(norm, row, mean, rstd);
  }
}

constexpr int kGeneralThreads = 256;

// Any columns: a block a row, which it reads three times.
template <typename T, typename R>
__global__ void __launch_bounds__(kGeneralThreads) norm_general_kernel(const Norm<T, R> norm) {
  RowSums<kGeneralThreads> row_sum;
  const float of_columns = 1.0f / static_cast<float>(norm.columns);
  for (int64_t row = blockIdx.x; row < norm.rows; row += gridDim.x) {
    const int64_t start = row * norm.columns;
    const RowDropout dropout(norm.dropout, row);
    float total = 0;
    for (int64_t c = threadIdx.x; c < norm.columns; c += kGeneralThreads) {
      float x = to_float(norm.x[start + c]);
      if (norm.branch != nullptr) {
        x += dropout(to_float(norm.branch[start + c]), static_cast<uint32_t>(c));
        const R rounded = from_float<R>(x);
        norm.sum[start + c] = rounded;
        x = to_float(rounded);
      }
      total += x;
    }
    if (norm.y == nullptr) continue;
    const R* sum = (norm.branch != nullptr ? norm.sum : norm.x) + start;
    const float mean = row_sum(total) * of_columns;
    float squares = 0;
    for (int64_t c = threadIdx.x; c < norm.columns; c += kGeneralThreads) {
      const float centred = to_float(sum[c]) - mean;
      squares += centred * centred;
    }
    const float rstd = rsqrtf(row_sum(squares) * of_columns + norm.eps);
    for (int64_t c = threadIdx.x; c < norm.columns; c += kGeneralThreads) {
      norm.y[start + c] =
          from_float<T>(fmaf((to_float(sum[c]) - mean) * rstd, norm.weight[c], norm.bias[c]));
    }
    if (threadIdx.x == 0) store_statistics(norm, row, mean, rstd);
  }
}

}  // namespace

void norm(const Context& context, const NormArgs& args) {
  const int64_t rows = args.elements.rows, columns = args.elements.columns;
  if (rows == 0 || columns == 0) return;
  const bool in_registers =
      columns % 4 == 0 && columns <= kMostColumns &&
      begin_aligned(args.x, args.branch, args.sum, args.weight, args.bias, args.y);
  with_residual(args.elements.compute, args.residual, [&](auto element, auto residual) {
    using T = decltype(element);
    using R = decltype(residual);
    const Norm<T, R> norm = norm_of<T, R>(args);
    if (!in_registers) {
      norm_general_kernel<T, R>
          <<<row_blocks(rows, 1, kGeneralThreads, 2048), kGeneralThreads, 0, stream_of(context)>>>(
              norm);
      return;
    }
    with_row_shape<4>(columns, [&](auto shape) {
      using Shape = decltype(shape);
      const unsigned blocks = row_blocks(rows, Shape::kRows, Shape::kThreads, kThreadsAtOnce);
      norm_kernel<T, R, Shape><<<blocks, Shape::kThreads, 0, stream_of(context)>>>(norm);
    });
  });
  LACE_CUDA(cudaGetLastError());
}

}  // namespace lace::cuda::elementwise
