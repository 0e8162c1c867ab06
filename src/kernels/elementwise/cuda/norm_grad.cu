#include "kernels/elementwise/cuda/finish_sums.h"
#include "kernels/elementwise/cuda/functions.h"
#include "kernels/elementwise/cuda/row_shape.h"
#include "kernels/elementwise/cuda/vectors.cuh"

namespace lace::cuda::elementwise {
namespace {

// R: of the residual stream.
template <typename T, typename R>
struct NormGrad {
  int64_t rows, columns;
  const T* dy;
  const R* x;
  const float *mean, *rstd, *weight;
  const R* grad;  // may be dx
  R* dx;
  T* dbranch;
  Dropout dropout;
  float* partials;  // [blocks, 3, columns] of weight, bias and branch
};

constexpr int kThreadsAtOnce = 640;

__device__ inline void add_product(float4& sum, const float4& a, const float4& b) {
  sum.x = fmaf(a.x, b.x, sum.x), sum.y = fmaf(a.y, b.y, sum.y);
  sum.z = fmaf(a.z, b.z, sum.z), sum.w = fmaf(a.w, b.w, sum.w);
}
__device__ inline void add(float4& sum, const float4& a) {
  sum.x += a.x, sum.y += a.y, sum.z += a.z, sum.w += a.w;
}
__device__ inline float dot(const float4& a, const float4& b) {
  return fmaf(a.x, b.x, a.y * b.y) + fmaf(a.z, b.z, a.w * b.w);
}

// Sums of a block's rows, in order, to partials [columns] of one quantity.
template <typename Shape>
__device__ void store_partials(const float4 (&sums)[Shape::kVectors], int columns,
                               float* partials) {
  constexpr int kLanes = Shape::kLanes;
  const int first = static_cast<int>(threadIdx.x) % kLanes * 4;
  if constexpr (Shape::kRows == 1) {
#pragma unroll
    for (int j = 0; j < Shape::kVectors; j++) {
      const int column = first + j * kLanes * 4;
      if (column < columns) store_floats(partials + column, sums[j]);
    }
  } else {
    constexpr int kColumns = kLanes * 4 * Shape::kVectors;
    __shared__ float4 shared[Shape::kRows][kColumns / 4];
    __syncthreads();  // the quantity before has been read
#pragma unroll
    for (int j = 0; j < Shape::kVectors; j++) {
      shared[threadIdx.x / kLanes][first / 4 + j * kLanes] = sums[j];
    }
    __syncthreads();
    for (int c = static_cast<int>(threadIdx.x); c < columns; c += Shape::kThreads) {
      float total = 0;
#pragma unroll
      for (int r = 0; r < Shape::kRows; r++) {
        total += reinterpret_cast<const float*>(shared[r])[c];
      }
      partials[c] = total;
    }
  }
}

// A multiple of four columns, which a thread's registers hold, and so their sums over its rows.
template <typename T, typename R, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, kThreadsAtOnce / Shape::kThreads)
    norm_grad_kernel(const NormGrad<T, R> norm) {
  constexpr int kVectors = Shape::kVectors, kLanes = Shape::kLanes;
  const float4 zero = make_float4(0, 0, 0, 0);
  const int columns = static_cast<int>(norm.columns);
  const int first = static_cast<int>(threadIdx.x) % kLanes * 4;
  const auto column = [&](int j) { return first + j * kLanes * 4; };
  const float of_columns = 1.0f / static_cast<float>(columns);
  RowSums<kLanes> row_sum;
  float4 weight_sum[kVectors], bias_sum[kVectors], branch_sum[kVectors];
#pragma unroll
  for (int j = 0; j < kVectors; j++) weight_sum[j] = bias_sum[j] = branch_sum[j] = zero;

  struct Row {
    Vector<R, 4> x[kVectors], grad[kVectors];
    Vector<T, 4> dy[kVectors];
    float mean, rstd;
  };
  const auto load = [&](int64_t i, Row& to) {
    const int64_t row = from_the_end(i, norm.rows), start = row * columns;
#pragma unroll
    for (int j = 0; j < kVectors; j++) {
      to.x[j] = to.grad[j] = Vector<R, 4>::zeros();
      to.dy[j] = Vector<T, 4>::zeros();
      if (column(j) >= columns) continue;
      to.x[j] = Vector<R, 4>::load(norm.x + start + column(j));
      to.dy[j] = Vector<T, 4>::load(norm.dy + start + column(j));
      if (norm.grad != nullptr) to.grad[j] = Vector<R, 4>::load(norm.grad + start + column(j));
    }
    to.mean = norm.mean[row], to.rstd = norm.rstd[row];
  };
  // The next row is on its way while this one is worked on.
  const int64_t step = static_cast<int64_t>(gridDim.x) * Shape::kRows;
  int64_t i = static_cast<int64_t>(blockIdx.x) * Shape::kRows + threadIdx.x / kLanes;
  Row next;
  if (i < norm.rows) load(i, next);
  for (; i < norm.rows; i += step) {
    const Row loaded = next;
    if (i + step < norm.rows) load(i + step, next);
    const int64_t row = from_the_end(i, norm.rows), start = row * columns;
    const float mean = loaded.mean, rstd = loaded.rstd;
    float4 x[kVectors];
    float2 sums = make_float2(0, 0);
#pragma unroll
    for (int j = 0; j < kVectors; j++) {
      x[j] = loaded.x[j].unpacked();
      x[j] = make_float4((x[j].x - mean) * rstd, (x[j].y - mean) * rstd, (x[j].z - mean) * rstd,
                         (x[j].w - mean) * rstd);
      const float4 d = loaded.dy[j].unpacked();
      add_product(weight_sum[j], d, x[j]);
      add(bias_sum[j], d);
      const float4 weight = column(j) < columns
                                ? __ldg(reinterpret_cast<const float4*>(norm.weight + column(j)))
                                : zero;
      const float4 wd = make_float4(weight.x * d.x, weight.y * d.y, weight.z * d.z, weight.w * d.w);
      sums.x += (wd.x + wd.y) + (wd.z + wd.w);
      sums.y += dot(wd, x[j]);
    }
    sums = row_sum(sums);
    const float of_one = -sums.x * of_columns * rstd, of_x = -sums.y * of_columns * rstd;
    const RowDropout dropout(norm.dropout, row);
#pragma unroll
    for (int j = 0; j < kVectors; j++) {
      if (column(j) >= columns) continue;
      const float4 d = loaded.dy[j].unpacked(), grad = loaded.grad[j].unpacked();
      const float4 weight = __ldg(reinterpret_cast<const float4*>(norm.weight + column(j)));
      const float4 dx =
          make_float4(grad.x + fmaf(weight.x * rstd, d.x, fmaf(x[j].x, of_x, of_one)),
                      grad.y + fmaf(weight.y * rstd, d.y, fmaf(x[j].y, of_x, of_one)),
                      grad.z + fmaf(weight.z * rstd, d.z, fmaf(x[j].z, of_x, of_one)),
                      grad.w + fmaf(weight.w * rstd, d.w, fmaf(x[j].w, of_x, of_one)));
      const float4 rounded = store_four(norm.dx + start + column(j), dx);
      const float4 kept = dropout(rounded, static_cast<uint32_t>(column(j)));
      add(branch_sum[j], kept);
      if (norm.dbranch != nullptr) {
        Vector<T, 4>::packed(kept).store(norm.dbranch + start + column(j));
      }
    }
  }
  if (norm.partials == nullptr) return;
  float* partials = norm.partials + static_cast<int64_t>(blockIdx.x) * 3 * columns;
  store_partials<Shape>(weight_sum, columns, partials);
  store_partials<Shape>(bias_sum, columns, partials + columns);
  store_partials<Shape>(branch_sum, columns, partials + 2 * columns);
}

constexpr int kGeneralThreads = 256;

// Any columns: a block a row.
template <typename T, typename R>
__global__ void __launch_bounds__(kGeneralThreads) general_rows_kernel(const NormGrad<T, R> norm) {
  RowSums<kGeneralThreads> row_sum;
  const float of_columns = 1.0f / static_cast<float>(norm.columns);
  for (int64_t row = blockIdx.x; row < norm.rows; row += gridDim.x) {
    const int64_t start = row * norm.columns;
    const float mean = norm.mean[row], rstd = norm.rstd[row];
    float2 sums = make_float2(0, 0);
    for (int64_t c = threadIdx.x; c < norm.columns; c += kGeneralThreads) {
      const float wd = norm.weight[c] * to_float(norm.dy[start + c]);
      sums.x += wd;
      sums.y = fmaf(wd, (to_float(norm.x[start + c]) - mean) * rstd, sums.y);
    }
    sums = row_sum(sums);
    const RowDropout dropout(norm.dropout, row);
    for (int64_t c = threadIdx.x; c < norm.columns; c += kGeneralThreads) {
      const float x = (to_float(norm.x[start + c]) - mean) * rstd;
      const float wd = norm.weight[c] * to_float(norm.dy[start + c]);
      const float grad = norm.grad != nullptr ? to_float(norm.grad[start + c]) : 0.0f;
      const R dx =
          from_float<R>(grad + rstd * (wd - sums.x * of_columns - x * (sums.y * of_columns)));
      norm.dx[start + c] = dx;
      if (norm.dbranch != nullptr) {
        norm.dbranch[start + c] = from_float<T>(dropout(to_float(dx), static_cast<uint32_t>(c)));
      }
    }
  }
}

// Any columns, a thread each, once dx is there: the sums of every gridDim.y-th row.
template <typename T, typename R>
__global__ void __launch_bounds__(kGeneralThreads) general_sums_kernel(const NormGrad<T, R> norm) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kGeneralThreads + threadIdx.x;
  if (c >= norm.columns) return;
  float weight_sum = 0, bias_sum = 0, branch_sum = 0;
#pragma unroll 4
  for (int64_t row = blockIdx.y; row < norm.rows; row += gridDim.y) {
    const int64_t at = row * norm.columns + c;
    const float d = to_float(norm.dy[at]);
    weight_sum = fmaf(d, (to_float(norm.x[at]) - norm.mean[row]) * norm.rstd[row], weight_sum);
    bias_sum += d;
    branch_sum += RowDropout(norm.dropout, row)(to_float(norm.dx[at]), static_cast<uint32_t>(c));
  }
  float* partials = norm.partials + static_cast<int64_t>(blockIdx.y) * 3 * norm.columns + c;
  partials[0] = weight_sum;
  partials[norm.columns] = bias_sum;
  partials[2 * norm.columns] = branch_sum;
}

template <typename T, typename R>
NormGrad<T, R> norm_grad_of(const NormGradArgs& args) {
  return {args.elements.rows,
          args.elements.columns,
          static_cast<const T*>(args.dy),
          static_cast<const R*>(args.x),
          static_cast<const float*>(args.mean),
          static_cast<const float*>(args.rstd),
          static_cast<const float*>(args.weight),
          static_cast<const R*>(args.grad),
          static_cast<R*>(args.dx),
          static_cast<T*>(args.dbranch),
          args.dropout,
          nullptr};
}

// Runs the kernels that leave partial sums, for which it asks memory_of(how many), null where none
// are wanted.
template <typename T, typename R, typename MemoryOf>
void launch(NormGrad<T, R> norm, bool in_registers, MemoryOf memory_of, cudaStream_t stream) {
  if (in_registers) {
    with_row_shape<2>(norm.columns, [&](auto shape) {
      using Shape = decltype(shape);
      const unsigned blocks = row_blocks(norm.rows, Shape::kRows, Shape::kThreads, kThreadsAtOnce);
      norm.partials = memory_of(blocks);
      norm_grad_kernel<T, R, Shape><<<blocks, Shape::kThreads, 0, stream>>>(norm);
    });
    return;
  }
  const unsigned blocks = row_blocks(norm.rows, 1, kGeneralThreads, 2048);
  general_rows_kernel<T, R><<<blocks, kGeneralThreads, 0, stream>>>(norm);
  LACE_CUDA(cudaGetLastError());
  const int64_t columns = cover(norm.columns, kGeneralThreads);
  const int64_t slabs =
      std::clamp<int64_t>(cover(norm.rows, 16), 1, cover(multiprocessors() * 8, columns));
  norm.partials = memory_of(slabs);
  if (norm.partials == nullptr) return;
  const dim3 grid(static_cast<unsigned>(columns), static_cast<unsigned>(slabs));
  general_sums_kernel<T, R><<<grid, kGeneralThreads, 0, stream>>>(norm);
}

}  // namespace

void norm_grad(const Context& context, const NormGradArgs& args) {
  const int64_t columns = args.elements.columns;
  if (columns == 0) return;
  const bool in_registers =
      columns % 4 == 0 && columns <= kMostColumns &&
      begin_aligned(args.dy, args.x, args.weight, args.grad, args.dx, args.dbranch);
  const ColumnSum sums[kMostSums] = {args.weight_sum, args.bias_sum, args.branch_sum};
  const bool wanted = sums[0].data != nullptr || sums[1].data != nullptr || sums[2].data != nullptr;
  Workspace partials;
  int64_t count = 0;
  const auto memory_of = [&](int64_t blocks) -> float* {
    if (!wanted) return nullptr;
    count = blocks;
    partials = context.allocate_floats(blocks * 3 * columns);
    return reinterpret_cast<float*>(partials.get());
  };
  with_residual(args.elements.compute, args.residual, [&](auto element, auto residual) {
    launch(norm_grad_of<decltype(element), decltype(residual)>(args), in_registers, memory_of,
           stream_of(context));
  });
  LACE_CUDA(cudaGetLastError());
  if (!wanted) return;
  finish_sums(reinterpret_cast<const float*>(partials.get()), count, 3, columns, columns, sums,
              stream_of(context));
}

}  // namespace lace::cuda::elementwise
