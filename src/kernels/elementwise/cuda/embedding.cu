#include "kernels/elementwise/cuda/functions.h"
#include "kernels/elementwise/cuda/launch.h"
#include "kernels/elementwise/cuda/vectors.cuh"

namespace lace::cuda::elementwise {
namespace {

struct Tables {
  const float *tok, *sos;
  const float* pos[kMaxPositionTables];
};

// A warp a slot, a vector of one or four columns a lane at a time.
constexpr int kThreads = 256;
constexpr int kSlots = kThreads / 32;

template <typename Vector>
__device__ void add(Vector& sum, const Vector& a) {
  if constexpr (sizeof(Vector) == 4) {
    sum += a;
  } else {
    sum.x += a.x, sum.y += a.y, sum.z += a.z, sum.w += a.w;
  }
}

template <typename R>
__device__ void store(R* to, float value) {
  *to = from_float<R>(value);
}
template <typename R>
__device__ void store(R* to, const float4& values) {
  store_four(to, values);
}

template <typename Vector, typename R>
__global__ void __launch_bounds__(kThreads)
    embedding_kernel(const EmbeddingShape shape, const Tables tables, R* __restrict__ out) {
  constexpr int kWidth = sizeof(Vector) / sizeof(float);
  const int64_t slot = static_cast<int64_t>(blockIdx.x) * kSlots + threadIdx.x / 32;
  if (slot >= shape.batch * shape.n) return;
  const int64_t s = slot % shape.n;
  const auto row_of = [&](const float* table, int64_t row) {
    return reinterpret_cast<const Vector*>(table + row * shape.columns);
  };
  const Vector* tok = row_of(tables.sos, 0);
  const Vector* pos[kMaxPositionTables] = {};
  if (s > 0) {
    tok = row_of(tables.tok, shape.tokens[slot - 1]);
#pragma unroll
    for (int p = 0; p < kMaxPositionTables; p++) {
      if (p < shape.parts) pos[p] = row_of(tables.pos[p], shape.indices[p * shape.n + s - 1]);
    }
  }
  R* to = out + slot * shape.columns;
#pragma unroll 4
  for (int64_t c = threadIdx.x % 32; c < shape.columns / kWidth; c += 32) {
    Vector sum = __ldg(tok + c);
#pragma unroll
    for (int p = 0; p < kMaxPositionTables; p++) {
      if (pos[p] != nullptr) add(sum, __ldg(pos[p] + c));
    }
    store(to + c * kWidth, sum);
  }
}

}  // namespace

void embedding(const Context& context, const EmbeddingArgs& args) {
  const EmbeddingShape& shape = args.shape;
  const int64_t slots = shape.batch * shape.n;
  if (slots == 0 || shape.columns == 0) return;
  Tables tables = {static_cast<const float*>(args.tok), static_cast<const float*>(args.sos), {}};
  bool aligned = shape.columns % 4 == 0 && begin_aligned(args.tok, args.sos, args.out);
  for (int p = 0; p < shape.parts; p++) {
    tables.pos[p] = static_cast<const float*>(args.pos[p]);
    aligned = aligned && begin_aligned(args.pos[p]);
  }
  const auto blocks = static_cast<unsigned>(cover(slots, kSlots));
  with_residual(shape.residual, [&](auto residual) {
    using R = decltype(residual);
    auto* out = static_cast<R*>(args.out);
    if (aligned) {
      embedding_kernel<float4><<<blocks, kThreads, 0, stream_of(context)>>>(shape, tables, out);
    } else {
      embedding_kernel<float><<<blocks, kThreads, 0, stream_of(context)>>>(shape, tables, out);
    }
  });
  LACE_CUDA(cudaGetLastError());
}

}  // namespace lace::cuda::elementwise
