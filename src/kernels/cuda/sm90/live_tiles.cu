#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/sm90/live_tiles.cuh"

namespace lace::sm90 {
namespace {

__global__ void __launch_bounds__(kListThreads) list_kernel(const LiveLaunch launch) {
  __shared__ ListMemory memory;
  list_tiles(launch, memory);
}

__global__ void __launch_bounds__(kSortThreads) sort_kernel(const LiveLaunch launch) {
  __shared__ int32_t places[kSizeClasses];
  sort_tiles(launch, places);
}

}  // namespace

void list_live_tiles(const LiveLaunch& launch, cudaStream_t stream) {
  if (launch.tile_count == 0) return;
  list_kernel<<<static_cast<unsigned>(launch.tile_count), kListThreads, 0, stream>>>(launch);
  LACE_CUDA(cudaGetLastError());
  sort_kernel<<<static_cast<unsigned>(launch.pass_count), kSortThreads, 0, stream>>>(launch);
  LACE_CUDA(cudaGetLastError());
}

}  // namespace lace::sm90
