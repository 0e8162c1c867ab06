#include <algorithm>
#include <cmath>

#include "kernels/elementwise/cuda/functions.h"
#include "kernels/elementwise/cuda/launch.h"
#include "kernels/elementwise/cuda/vectors.cuh"

namespace lace::cuda::elementwise {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;
constexpr int kNormBlocks = 4;  // of a multiprocessor

// Of some gradients: the sum of squares, and whether any was not finite.
struct Squares {
  double sum;
  int64_t overflowed;
};

// Σ g², without the gradients that are not finite if `skip`.
__device__ void add_square(Squares& squares, float gradient, bool skip) {
  const bool finite = isfinite(gradient);
  squares.overflowed |= !finite;
  const double value = finite || !skip ? gradient : 0.0f;
  squares.sum = fma(value, value, squares.sum);
}

// Thread 0 gets all of the block's.
__device__ Squares block_sum(Squares squares) {
  __shared__ double sums[kThreads / 32];
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    squares.sum += __shfl_xor_sync(~0u, squares.sum, lanes);
  }
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = squares.sum;
  squares.overflowed = __syncthreads_or(static_cast<int>(squares.overflowed));
  squares.sum = sums[0];
  for (int w = 1; w < kThreads / 32; w++) squares.sum += sums[w];
  return squares;
}

__global__ void __launch_bounds__(kThreads, kNormBlocks)
    squares_kernel(const float* __restrict__ gradients, int64_t vectors, int64_t count, bool skip,
                   Squares* partials) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kThreads;
  const int64_t own = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  Squares squares = {0, 0};
  for (int64_t first = own; first < vectors; first += threads * kUnroll) {
    float4 g[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; u++) {
      g[u] = make_float4(0, 0, 0, 0);
      if (first + u * threads < vectors) g[u] = load_floats(gradients + (first + u * threads) * 4);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; u++) {
      add_square(squares, g[u].x, skip);
      add_square(squares, g[u].y, skip);
      add_square(squares, g[u].z, skip);
      add_square(squares, g[u].w, skip);
    }
  }
  for (int64_t i = vectors * 4 + own; i < count; i += threads) {
    add_square(squares, gradients[i], skip);
  }
  squares = block_sum(squares);
  if (threadIdx.x == 0) partials[blockIdx.x] = squares;
}

struct NormRule {
  double clip_norm;
  LossScaling scaling;
};

// One block.
__global__ void __launch_bounds__(kThreads)
    state_kernel(const Squares* partials, int count, const NormRule rule, StepState* state) {
  Squares squares = {0, 0};
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    squares.sum += partials[i].sum;
    squares.overflowed |= partials[i].overflowed;
  }
  squares = block_sum(squares);
  if (threadIdx.x != 0 || state->failed != 0) return;
  const double loss_scale = state->loss_scale;
  const double norm = sqrt(squares.sum) / loss_scale;
  state->norm = norm;
  state->overflowed = squares.overflowed;
  if (squares.overflowed != 0 && !rule.scaling.on) {
    state->failed = 1;
    return;
  }
  const double clip = rule.clip_norm > 0 && norm > rule.clip_norm ? rule.clip_norm / norm : 1.0;
  state->factor = clip / loss_scale;
  if (!rule.scaling.on) return;
  state->loss_scale = squares.overflowed != 0 ? fmax(rule.scaling.floor, loss_scale / 2)
                                              : loss_scale * rule.scaling.growth;
}

template <typename T>
struct Adam {
  int64_t vectors, count, decayed;
  float* values;
  const float* gradients;
  float *m, *v, *ema;
  T* copies;
  float beta1, one1, beta2, one2, epsilon, weight_decay, keep, take;
  bool zero_not_finite;
  const double* rate;
  const StepState* state;
};

// One element's numbers, in and out.
struct Element {
  float value, m, v, ema;
};

template <typename T>
__device__ void update(const Adam<T>& adam, float gradient, float factor, float rate, bool decays,
                       Element& e) {
  if (adam.zero_not_finite && !isfinite(gradient)) gradient = 0;
  gradient *= factor;
  e.m = adam.beta1 * e.m + adam.one1 * gradient;
  e.v = adam.beta2 * e.v + adam.one2 * gradient * gradient;
  const float decay = decays ? adam.weight_decay : 0.0f;
  e.value -= rate * (__fdiv_rn(e.m, __fsqrt_rn(e.v) + adam.epsilon) + decay * e.value);
  e.ema = adam.keep * e.ema + adam.take * e.value;
}

// Four elements a thread, then one by one what is left.
template <typename T>
__global__ void __launch_bounds__(kThreads) update_kernel(const Adam<T> adam) {
  const int64_t own = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t rest = adam.vectors * 4 + own - adam.vectors;
  const bool whole = own < adam.vectors;
  if (!whole && rest >= adam.count) return;
  if (adam.state->failed != 0) return;
  const auto factor = static_cast<float>(adam.state->factor);
  const auto rate = static_cast<float>(*adam.rate);
  if (whole) {
    const int64_t at = own * 4;
    const float4 g = load_floats(adam.gradients + at);
    const float4 p = load_floats(adam.values + at);
    const float4 m = load_floats(adam.m + at), v = load_floats(adam.v + at);
    float4 ema = make_float4(0, 0, 0, 0);
    if (adam.ema != nullptr) ema = load_floats(adam.ema + at);
    Element e[4] = {{p.x, m.x, v.x, ema.x},
                    {p.y, m.y, v.y, ema.y},
                    {p.z, m.z, v.z, ema.z},
                    {p.w, m.w, v.w, ema.w}};
    const float gradients[4] = {g.x, g.y, g.z, g.w};
#pragma unroll
    for (int k = 0; k < 4; k++) {
      update(adam, gradients[k], factor, rate, at + k < adam.decayed, e[k]);
    }
    const float4 values = make_float4(e[0].value, e[1].value, e[2].value, e[3].value);
    store_floats(adam.values + at, values);
    store_floats(adam.m + at, make_float4(e[0].m, e[1].m, e[2].m, e[3].m));
    store_floats(adam.v + at, make_float4(e[0].v, e[1].v, e[2].v, e[3].v));
    if (adam.ema != nullptr) {
      store_floats(adam.ema + at, make_float4(e[0].ema, e[1].ema, e[2].ema, e[3].ema));
    }
    if (adam.copies != nullptr) Vector<T, 4>::packed(values).store(adam.copies + at);
    return;
  }
  Element e = {adam.values[rest], adam.m[rest], adam.v[rest],
               adam.ema != nullptr ? adam.ema[rest] : 0.0f};
  update(adam, adam.gradients[rest], factor, rate, rest < adam.decayed, e);
  adam.values[rest] = e.value;
  adam.m[rest] = e.m;
  adam.v[rest] = e.v;
  if (adam.ema != nullptr) adam.ema[rest] = e.ema;
  if (adam.copies != nullptr) adam.copies[rest] = from_float<T>(e.value);
}

template <typename T>
Adam<T> adam_of(const AdamArgs& args) {
  const bool aligned =
      begin_aligned(args.values, args.gradients, args.m, args.v, args.ema, args.copies);
  return {aligned ? args.count / 4 : 0,
          args.count,
          args.decayed,
          static_cast<float*>(args.values),
          static_cast<const float*>(args.gradients),
          static_cast<float*>(args.m),
          static_cast<float*>(args.v),
          static_cast<float*>(args.ema),
          static_cast<T*>(args.copies),
          static_cast<float>(args.beta1),
          static_cast<float>(1 - args.beta1),
          static_cast<float>(args.beta2),
          static_cast<float>(1 - args.beta2),
          static_cast<float>(args.epsilon),
          static_cast<float>(args.weight_decay),
          static_cast<float>(args.ema_decay),
          static_cast<float>(1 - args.ema_decay),
          args.scaling.on,
          args.rate,
          args.state};
}

}  // namespace

void adam_norm(const Context& context, const AdamArgs& args) {
  const int64_t vectors = begin_aligned(args.gradients) ? args.count / 4 : 0;
  const auto blocks = static_cast<unsigned>(std::clamp<int64_t>(
      cover(args.count, kThreads * kUnroll * 4), 1, multiprocessors() * kNormBlocks));
  const Workspace memory = context.allocate(blocks * sizeof(Squares));
  auto* partials = reinterpret_cast<Squares*>(memory.get());
  squares_kernel<<<blocks, kThreads, 0, stream_of(context)>>>(
      static_cast<const float*>(args.gradients), vectors, args.count, args.scaling.on, partials);
  LACE_CUDA(cudaGetLastError());
  state_kernel<<<1, kThreads, 0, stream_of(context)>>>(partials, static_cast<int>(blocks),
                                                       {args.clip_norm, args.scaling}, args.state);
  LACE_CUDA(cudaGetLastError());
}

void adam_step(const Context& context, const AdamArgs& args) {
  if (args.count == 0) return;
  // Without copies any type does.
  with_element(args.copies != nullptr ? args.compute : DType::kBFloat16, [&](auto element) {
    using T = decltype(element);
    const Adam<T> adam = adam_of<T>(args);
    const int64_t threads = adam.vectors + (adam.count - adam.vectors * 4);
    update_kernel<T>
        <<<static_cast<unsigned>(cover(threads, kThreads)), kThreads, 0, stream_of(context)>>>(
            adam);
  });
  LACE_CUDA(cudaGetLastError());
}

}  // namespace lace::cuda::elementwise
