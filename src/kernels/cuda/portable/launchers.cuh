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
  return function.template operator()<kMaxDim, kMaxDim>();
}

// Of tiles with more others than a chunk every chunk is full.
constexpr int32_t kTileOthers = 64;

template <typename T>
KernelTiles tiles_for(const AttentionShape& shape) {
  KernelTiles tiles;
  dispatch_dims(shape, [&]<int kQkDim, int kVDim>() {
    using Keys = BackwardConfig<BackwardMode::kKeysAlone, kQkDim, kVDim>;
    using Queries = BackwardConfig<BackwardMode::kQueries, kQkDim, kVDim>;
    using Forward = ForwardConfig<kQkDim, kVDim>;
    static_assert(Queries::kOwners == Forward::kOwners, "they run the same plan");
    if constexpr (!Keys::kLarge) {
      using AddsDq = BackwardConfig<BackwardMode::kKeys, kQkDim, kVDim>;
      static_assert(AddsDq::kOwners == Keys::kOwners, "they run the same plan");
    }
    static_assert(kTileOthers % Forward::kChunk == 0 && kTileOthers % Keys::kChunk == 0 &&
                  kTileOthers % Queries::kChunk == 0);
    tiles = {{Forward::kOwners, kTileOthers}, {Keys::kOwners, kTileOthers}};
  });
  return tiles;
}

template <typename Kernel, typename Launch>
void start(Kernel* kernel, int parts, int threads, int smem_bytes, const Launch& launch,
           cudaStream_t stream) {
  const SectionOrder& order = launch.queue.sections;
  const int64_t blocks = int64_t{order.tiles} * order.heads * parts;
  LACE_CHECK(blocks <= INT32_MAX, "[attention] more than 2^31 tiles of all heads: ", blocks);
  LACE_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem_bytes));
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads),
           static_cast<size_t>(smem_bytes), stream>>>(launch);
  LACE_CUDA(cudaGetLastError());
}

template <typename T>
void launch_forward(const ForwardLaunch& launch, cudaStream_t stream) {
  dispatch_dims(launch.shape, [&]<int kQkDim, int kVDim>() {
    using Config = ForwardConfig<kQkDim, kVDim>;
    start(forward_kernel<T, kQkDim, kVDim>, 1, Config::kThreads, Config::kSmemBytes, launch,
          stream);
  });
}

template <typename T, BackwardMode kMode>
void launch_backward(BackwardLaunch launch, cudaStream_t stream) {
  dispatch_dims(launch.shape, [&]<int kDim0, int kDim1>() {
    if constexpr (kMode == BackwardMode::kKeys && (kDim0 > 128 || kDim1 > 128)) {
      LACE_CHECK(false, "[attention] no such kernel");
    } else {
      using Config = BackwardConfig<kMode, kDim0, kDim1>;
      const int memory = tile_memory();
      for (const BackwardBuffers buffers : {BackwardBuffers{2, 2}, {2, 1}, {1, 1}}) {
        launch.buffers = buffers;
        if (Config::smem_bytes(buffers) <= memory) break;
      }
      start(backward_kernel<T, kMode, kDim0, kDim1>, Config::kParts, Config::kThreads,
            Config::smem_bytes(launch.buffers), launch, stream);
    }
  });
}

template <typename T>
int dq_width(const AttentionShape& shape) {
  int width = 0;
  dispatch_dims(shape, [&]<int kDim0, int kDim1>() {
    if constexpr (kDim0 <= 128 && kDim1 <= 128) {
      using Config = BackwardConfig<BackwardMode::kKeys, kDim0, kDim1>;
      if (Config::smem_bytes({1, 1}) <= tile_memory()) width = kDim0;
    }
  });
  return width;
}

}  // namespace lace::cuda::portable
