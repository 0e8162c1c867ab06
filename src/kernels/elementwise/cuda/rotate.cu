#include <algorithm>

#include "kernels/elementwise/cuda/functions.h"
#include "kernels/elementwise/cuda/launch.h"
#include "kernels/elementwise/cuda/vectors.cuh"

namespace lace::cuda::elementwise {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;  // heads that a thread has under way, two vectors each

// A row is cut into groups · vectors parts, a thread each: vector v of the halves of heads
// g, g + groups, …, which all take the same cos and sin. Neighbouring threads have neighbouring
// vectors, then heads. `lanes` threads share a row; a block has whole rows.
struct Rotation {
  int64_t rows, columns;
  int heads, head_dim;
  int64_t n, first_position;
  const float *cos, *sin;
  float sign;  // of sin
  int vectors, groups, lanes;
};

template <int kWidth>
__device__ void load_angles(const float* from, float (&values)[kWidth]) {
  if constexpr (kWidth == 1) {
    values[0] = __ldg(from);
  } else {
#pragma unroll
    for (int k = 0; k < kWidth; k += 4) {
      const float4 four = __ldg(reinterpret_cast<const float4*>(from + k));
      values[k] = four.x, values[k + 1] = four.y, values[k + 2] = four.z, values[k + 3] = four.w;
    }
  }
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) rotate_kernel(const Rotation rotation, T* x) {
  using Elements = Vector<T, kWidth>;
  const int line = static_cast<int>(threadIdx.x) / rotation.lanes;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / rotation.lanes) + line;
  if (line >= kThreads / rotation.lanes || row >= rotation.rows) return;
  const int half = rotation.head_dim / 2, parts = rotation.groups * rotation.vectors;
  const int64_t angles = (rotation.first_position + row % rotation.n) * half;
  T* of_row = x + row * rotation.columns;
  for (int part = static_cast<int>(threadIdx.x) % rotation.lanes; part < parts;
       part += rotation.lanes) {
    const int group = part / rotation.vectors, column = part % rotation.vectors * kWidth;
    const auto head = [&](int u) { return group + u * rotation.groups; };
    const auto low = [&](int u) {
      return of_row + static_cast<int64_t>(head(u)) * rotation.head_dim + column;
    };
    Elements lows[kUnroll], highs[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; u++) {
      lows[u] = highs[u] = Elements::zeros();
      if (head(u) >= rotation.heads) continue;
      lows[u] = Elements::load(low(u));
      highs[u] = Elements::load(low(u) + half);
    }
    float cos[kWidth], sin[kWidth];
    load_angles<kWidth>(rotation.cos + angles + column, cos);
    load_angles<kWidth>(rotation.sin + angles + column, sin);
#pragma unroll
    for (int u = 0; u < kUnroll; u++) {
      if (head(u) >= rotation.heads) continue;
      float a[kWidth], b[kWidth];
      lows[u].unpack_to(a);
      highs[u].unpack_to(b);
#pragma unroll
      for (int k = 0; k < kWidth; k++) {
        const float across = sin[k] * rotation.sign, before = a[k];
        a[k] = before * cos[k] - b[k] * across;
        b[k] = b[k] * cos[k] + before * across;
      }
      Elements::packed(a).store(low(u));
      Elements::packed(b).store(low(u) + half);
    }
  }
}

template <typename T, int kWidth>
void launch_rotate(const RotateArgs& args, cudaStream_t stream) {
  Rotation rotation{.rows = args.elements.rows,
                    .columns = args.elements.columns,
                    .heads = static_cast<int>(args.heads),
                    .head_dim = static_cast<int>(args.head_dim),
                    .n = args.n,
                    .first_position = args.first_position,
                    .cos = static_cast<const float*>(args.cos),
                    .sin = static_cast<const float*>(args.sin),
                    .sign = args.inverse ? -1.0f : 1.0f,
                    .vectors = static_cast<int>(args.head_dim / 2 / kWidth),
                    .groups = static_cast<int>(cover(args.heads, kUnroll)),
                    .lanes = 0};
  rotation.lanes = std::min(rotation.vectors * rotation.groups, kThreads);
  const auto blocks = static_cast<unsigned>(cover(rotation.rows, kThreads / rotation.lanes));
  rotate_kernel<T, kWidth><<<blocks, kThreads, 0, stream>>>(rotation, static_cast<T*>(args.x));
  LACE_CUDA(cudaGetLastError());
}

}  // namespace

void rotate(const Context& context, const RotateArgs& args) {
  if (args.elements.rows == 0 || args.heads == 0 || args.head_dim == 0) return;
  const bool in_vectors = args.head_dim % 16 == 0 && args.elements.columns % 8 == 0 &&
                          begin_aligned(args.x, args.cos, args.sin);
  with_element(args.elements.compute, [&](auto element) {
    using T = decltype(element);
    if (in_vectors) {
      launch_rotate<T, 8>(args, stream_of(context));
    } else {
      launch_rotate<T, 1>(args, stream_of(context));
    }
  });
}

}  // namespace lace::cuda::elementwise
