#pragma once

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/sm90/backward_consumer.cuh"

namespace lace::sm90 {

// Backward: tiles of 128 owners stay on chip, tiles of others stream past. A block is a warpgroup
// that produces and two that consume (64 owners each). Of those that produce, one warp finds items,
// one walks their runs and issues TMA loads, where owners are keys one reads the statistics of
// queries (and for kKeys copies what passes before left), and one tells other blocks of what is
// done. Per tile and consumer, with scores [64 owners][others]:
//   s = x0 y0ᵀ,  w = 2^(scale s − lse),  dw = x1 y1ᵀ,  ds = w (dw − delta)
// (with a softcap w of tanh(s), and ds as differentiate_capped() has it)
//   d0 += ds y0,  d1 += w y1      in registers, ds and w as operands in registers
// Over the transposed plan owners are keys, x = k and v, y = q and dout, d = dk and dv, and
//   dq += dsᵀ k                   ds of both consumers by way of shared memory, added in global;
//                                 stored at once where no other tile has the query
// Over the plan itself owners are queries, x = q and dout, y = k and v, d0 = dq: every sum has its
// order, and scores are computed twice. Past head_dim 128 d0 and d1 are computed apart, too.

// Dynamic shared memory, whose tiles begin at the next multiple of 1024. It stands behind what is
// static, from such a multiple on: so up to 3 · 1024 bytes of that leave room for the most tiles.
template <typename Config>
constexpr int smem_bytes() {
  constexpr int kMost = 227 * 1024 - static_cast<int>(sizeof(BackwardShared<Config>));
  return Config::kTileBytes + 1024 < kMost ? Config::kTileBytes + 1024 : kMost;
}

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    attention_backward_kernel(const __grid_constant__ BackwardParams params) {
  extern __shared__ uint8_t raw[];
  __shared__ alignas(16) uint8_t shared_bytes[sizeof(BackwardShared<Config>)];
  auto& shared = reinterpret_cast<BackwardShared<Config>&>(shared_bytes);
  const uint32_t start = cute::cast_smem_ptr_to_uint(raw);
  const BackwardTiles<Config> tiles((start + 1023) / 1024 * 1024);
  if constexpr (smem_bytes<Config>() < Config::kTileBytes + 1024) {
    if (tiles.x0 - start > smem_bytes<Config>() - Config::kTileBytes) __trap();
  }
  if (threadIdx.x == 0) {
    constexpr int kConsumerWarps = 4 * Config::kConsumers;
    shared.items.init(Config::kByKeys ? 3 : 2, kConsumerWarps);
    for (int i = 0; i < Config::kOwnerStages; ++i) {
      shared.owner_full[i].init(Config::kOwnerTensors);
      shared.owner_empty[i].init(kConsumerWarps);
    }
    for (int i = 0; i < Config::kStages; ++i) {
      // A load, or two; what each lane reads.
      shared.full[i].init((Config::kDeep ? 1 : 2) + (Config::kByKeys ? 32 : 0));
      shared.empty[i].init(32 * kConsumerWarps);
    }
    for (int i = 0; Config::kDeep && i < Config::kSecondStages; ++i) {
      shared.second_full[i].init(1);
      shared.second_empty[i].init(32 * kConsumerWarps);
    }
    cutlass::arch::fence_barrier_init();
  }
  // Rows of a tile that no load writes weigh 0, which must not meet a NaN.
  uint8_t* all = raw + (tiles.x0 - start);
  for (int i = threadIdx.x * 16; i < Config::kTileBytes; i += 16 * blockDim.x) {
    *reinterpret_cast<uint4*>(all + i) = make_uint4(0, 0, 0, 0);
  }
  cutlass::arch::fence_view_async_shared();
  __syncthreads();

  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0);
  if (warpgroup == 0) {
    cutlass::arch::warpgroup_reg_dealloc<Config::kProducerRegisters>();
    const int lane = threadIdx.x % 32;
    if (threadIdx.x >= 96) {
      tell_passes(params.queue, shared.items, lane);
    } else if (!params.queue.has_sequences()) {
      load_items<Config, false>(params, shared, tiles, lane);
    } else {
      load_items<Config, true>(params, shared, tiles, lane);
    }
  } else {
    cutlass::arch::warpgroup_reg_alloc<Config::kConsumerRegisters>();
    BackwardConsumer<Config> consumer{params, shared, tiles, warpgroup - 1,
                                      static_cast<int>(threadIdx.x % 128)};
    consumer.run();
  }
}

template <typename Config>
void launch_backward(const BackwardParams& params, int grid, cudaStream_t stream) {
  constexpr int kSmemBytes = smem_bytes<Config>();
  const auto kernel = attention_backward_kernel<Config>;
  LACE_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSmemBytes));
  kernel<<<grid, Config::kThreads, kSmemBytes, stream>>>(params);
  LACE_CUDA(cudaGetLastError());
}

template <typename Element, int kDim, BackwardMode kMode, bool kCaps>
BackwardKernel make_backward_kernel() {
  using Config = BackwardConfig<Element, kDim, kMode, kCaps>;
  return {kDim, Config::kTile, launch_backward<Config>};
}

}  // namespace lace::sm90
