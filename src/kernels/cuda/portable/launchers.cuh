#pragma once

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/portable/attention_backward_kernel.cuh"
#include "kernels/cuda/portable/attention_forward_kernel.cuh"

namespace lace::cuda::portable {

// The kernels of one dtype, for the one file that compiles them.

// Calls function.template operator()<kQkDim, kVDim>() with the smallest dims that have room.
template <typename Function>
void dispatch_dims(const AttentionShape& shape, const Function& function) {
  const int64_t qk = shape.qk_dim, v = shape.v_dim;
  if (qk <= 32 && v <= 32) return function.template operator()<32, 32>();
  if (qk <= 64 && v <= 64) return function.template operator()<64, 64>();
  if (qk <= 64 && v <= 128) return function.template operator()<64, 128>();
  if (qk <= 128 && v <= 128) return function.template operator()<128, 128>();
  return function.template operator()<256, 256>();
}

template <typename Kernel, typename Launch>
void start(Kernel* kernel, dim3 grid, int threads, int smem_bytes, const Launch& launch,
           cudaStream_t stream) {
  LACE_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem_bytes));
  kernel<<<grid, static_cast<unsigned>(threads), static_cast<size_t>(smem_bytes), stream>>>(launch);
  LACE_CUDA(cudaGetLastError());
}

inline dim3 grid_of(int64_t tiles, int64_t heads, int64_t batch) {
  return {static_cast<unsigned>(tiles), static_cast<unsigned>(heads), static_cast<unsigned>(batch)};
}

template <typename T>
void launch_forward(const ForwardLaunch& launch, int tiles, cudaStream_t stream) {
  dispatch_dims(launch.shape, [&]<int kQkDim, int kVDim>() {
    using Config = ForwardConfig<kQkDim, kVDim>;
    start(forward_kernel<T, kQkDim, kVDim>, grid_of(tiles, launch.shape.heads, launch.shape.batch),
          Config::kThreads, Config::kSmemBytes, launch, stream);
  });
}

template <typename T, bool kKeys>
void launch_backward(BackwardLaunch launch, int tiles, cudaStream_t stream) {
  int device = 0, smem_limit = 0;
  LACE_CUDA(cudaGetDevice(&device));
  LACE_CUDA(cudaDeviceGetAttribute(&smem_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  dispatch_dims(launch.shape, [&]<int kDim0, int kDim1>() {
    using Config = BackwardConfig<kKeys, kDim0, kDim1>;
    launch.stages = Config::smem_bytes(2) <= smem_limit ? 2 : 1;
    const int64_t heads = kKeys ? launch.shape.kv_heads : launch.shape.heads;
    start(backward_kernel<T, kKeys, kDim0, kDim1>,
          grid_of(static_cast<int64_t>(tiles) * Config::kParts, heads, launch.shape.batch),
          Config::kThreads, Config::smem_bytes(launch.stages), launch, stream);
  });
}

template <typename T>
void launch_statistics(const BackwardLaunch& launch, const Rows& out, const Rows& dout,
                       const float* lse, RowStatistics* statistics, cudaStream_t stream) {
  const int64_t rows = launch.shape.batch * launch.shape.heads * launch.shape.q_len;
  statistics_kernel<T><<<static_cast<unsigned>((rows + 7) / 8), 256, 0, stream>>>(
      launch.shape, out, dout, lse, statistics);
  LACE_CUDA(cudaGetLastError());
}

}  // namespace lace::cuda::portable
