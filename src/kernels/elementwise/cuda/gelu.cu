#include <algorithm>

#include "kernels/elementwise/cuda/finish_sums.h"
#include "kernels/elementwise/cuda/functions.h"
#include "kernels/elementwise/cuda/gelu.cuh"
#include "kernels/elementwise/cuda/launch.h"
#include "kernels/elementwise/cuda/vectors.cuh"

namespace lace::cuda::elementwise {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;  // vectors of an array that a thread has under way

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) gelu_kernel(const T* x, T* y, int64_t vectors) {
  using Elements = Vector<T, kWidth>;
  const int64_t block = from_the_end(blockIdx.x, gridDim.x);
  const int64_t first = block * (kThreads * kUnroll) + threadIdx.x;
  Elements in[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; u++) {
    const int64_t i = first + u * kThreads;
    in[u] = i < vectors ? Elements::load(x + i * kWidth) : Elements::zeros();
  }
#pragma unroll
  for (int u = 0; u < kUnroll; u++) {
    const int64_t i = first + u * kThreads;
    float values[kWidth];
    in[u].unpack_to(values);
#pragma unroll
    for (int k = 0; k < kWidth; k++) values[k] = QuickGelu::value(values[k]);
    if (i < vectors) Elements::packed(values).store(y + i * kWidth);
  }
}

template <typename T, int kWidth>
void launch_gelu(const T* x, T* y, int64_t vectors, cudaStream_t stream) {
  if (vectors == 0) return;
  const auto blocks = static_cast<unsigned>(cover(vectors, kThreads * kUnroll));
  gelu_kernel<T, kWidth><<<blocks, kThreads, 0, stream>>>(x, y, vectors);
  LACE_CUDA(cudaGetLastError());
}

// What walks over the rows of a matrix of `vectors` vectors a row: blocks of kThreads / lanes rows
// by `lanes` vectors, blockIdx.y of which make a row. Each thread stays on its columns.
struct Walk {
  int64_t rows;
  int vectors, lanes;
  float* partials;  // [blocks, columns], or null
};

// dx = dy · d gelu / d x (dy may be dx) with kGrad, else only the sums of x.
template <typename T, int kWidth, bool kGrad>
__global__ void __launch_bounds__(kThreads, 3)
    walk_kernel(const Walk walk, const T* x, const T* dy, T* dx) {
  using Elements = Vector<T, kWidth>;
  const int lane = static_cast<int>(threadIdx.x) % walk.lanes;
  const int line = static_cast<int>(threadIdx.x) / walk.lanes, lines = kThreads / walk.lanes;
  const int vector = static_cast<int>(blockIdx.y) * walk.lanes + lane;
  const bool inside = vector < walk.vectors;
  float sums[kWidth] = {};
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * lines * kUnroll + line;
       inside && first < walk.rows; first += static_cast<int64_t>(gridDim.x) * lines * kUnroll) {
    Elements xs[kUnroll], dys[kUnroll];
    const auto at = [&](int u) {
      return (from_the_end(first + u * lines, walk.rows) * walk.vectors + vector) * kWidth;
    };
#pragma unroll
    for (int u = 0; u < kUnroll; u++) {
      xs[u] = dys[u] = Elements::zeros();
      if (first + u * lines >= walk.rows) continue;
      xs[u] = Elements::load(x + at(u));
      if constexpr (kGrad) dys[u] = Elements::load(dy + at(u));
    }
#pragma unroll
    for (int u = 0; u < kUnroll; u++) {
      float values[kWidth];
      xs[u].unpack_to(values);
      if constexpr (kGrad) {
        float dvalues[kWidth];
        dys[u].unpack_to(dvalues);
#pragma unroll
        for (int k = 0; k < kWidth; k++) values[k] = dvalues[k] * QuickGelu::derivative(values[k]);
        if (first + u * lines < walk.rows) Elements::packed(values).store(dx + at(u));
      }
#pragma unroll
      for (int k = 0; k < kWidth; k++) sums[k] += values[k];
    }
  }
  if (walk.partials == nullptr) return;
  __shared__ float shared[kWidth][kThreads];
#pragma unroll
  for (int k = 0; k < kWidth; k++) shared[k][threadIdx.x] = sums[k];
  __syncthreads();
  if (line != 0 || !inside) return;
  float* partials =
      walk.partials + (static_cast<int64_t>(blockIdx.x) * walk.vectors + vector) * kWidth;
#pragma unroll
  for (int k = 0; k < kWidth; k++) {
    float total = 0;
    for (int i = lane; i < kThreads; i += walk.lanes) total += shared[k][i];
    partials[k] = total;
  }
}

template <typename T, int kWidth, bool kGrad>
void launch_walk(const Context& context, const Elements& elements, const void* x, const void* dy,
                 void* dx, const ColumnSum& sum) {
  const bool wanted = sum.data != nullptr;
  const auto vectors = static_cast<int>(elements.columns / kWidth);
  const int lanes = vectors % 64 == 0 ? 64 : 32;
  const int64_t tiles = cover(vectors, lanes);
  const int64_t blocks =
      std::clamp<int64_t>(multiprocessors() * 3 / tiles, 1,
                          std::max<int64_t>(1, cover(elements.rows, kThreads / lanes * kUnroll)));
  Workspace partials;
  if (wanted) partials = context.allocate_floats(blocks * elements.columns);
  auto* memory = reinterpret_cast<float*>(partials.get());
  walk_kernel<T, kWidth, kGrad>
      <<<dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(tiles)), kThreads, 0,
         stream_of(context)>>>({elements.rows, vectors, lanes, memory}, static_cast<const T*>(x),
                               static_cast<const T*>(dy), static_cast<T*>(dx));
  LACE_CUDA(cudaGetLastError());
  if (wanted) {
    finish_sums(memory, blocks, 1, elements.columns, elements.columns, {sum}, stream_of(context));
  }
}

template <bool kGrad>
void walk(const Context& context, const Elements& elements, const void* x, const void* dy, void* dx,
          const ColumnSum& sum) {
  if (elements.columns == 0) return;
  const bool in_vectors = elements.columns % 8 == 0 && begin_aligned(x, dy, dx);
  with_element(elements.compute, [&](auto element) {
    using T = decltype(element);
    if (in_vectors) {
      launch_walk<T, 8, kGrad>(context, elements, x, dy, dx, sum);
    } else {
      launch_walk<T, 1, kGrad>(context, elements, x, dy, dx, sum);
    }
  });
}

}  // namespace

void gelu(const Context& context, const GeluArgs& args) {
  const int64_t count = args.elements.rows * args.elements.columns;
  const int64_t vectors = begin_aligned(args.x, args.y) ? count / 8 : 0;
  with_element(args.elements.compute, [&](auto element) {
    using T = decltype(element);
    const auto* x = static_cast<const T*>(args.x);
    auto* y = static_cast<T*>(args.y);
    launch_gelu<T, 8>(x, y, vectors, stream_of(context));
    launch_gelu<T, 1>(x + vectors * 8, y + vectors * 8, count - vectors * 8, stream_of(context));
  });
}

void gelu_grad(const Context& context, const GeluGradArgs& args) {
  walk<true>(context, args.elements, args.x, args.dy, args.dx, args.sum);
}

void column_sum(const Context& context, const ColumnSumArgs& args) {
  if (args.sum.data == nullptr) return;
  walk<false>(context, args.elements, args.x, nullptr, nullptr, args.sum);
}

}  // namespace lace::cuda::elementwise
