#include <algorithm>
#include <atomic>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/portable/launch.h"

namespace lace::cuda::portable {

// Instantiated in attention_{forward,backward}_{bf16,fp16}.cu.
template <typename T>
void launch_forward(const ForwardLaunch&, cudaStream_t);
template <typename T, BackwardMode kMode>
void launch_backward(BackwardLaunch, cudaStream_t);
template <typename T>
int dq_width(const AttentionShape&);
template <typename T>
KernelTiles tiles_for(const AttentionShape&);

namespace {
std::atomic<int> limit_for_tests{0};
}  // namespace

int tile_memory() {
  int device = 0, bytes = 0;
  LACE_CUDA(cudaGetDevice(&device));
  LACE_CUDA(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  const int limit = limit_for_tests;
  return (limit > 0 ? std::min(limit, bytes) : bytes) - kOtherMemory;
}

void limit_tile_memory(int bytes) { limit_for_tests = bytes; }

template <typename T>
constexpr Launchers launchers_of() {
  return {tiles_for<T>,
          launch_forward<T>,
          launch_statistics<T>,
          launch_round<T>,
          launch_backward<T, BackwardMode::kKeys>,
          launch_backward<T, BackwardMode::kKeysAlone>,
          launch_backward<T, BackwardMode::kQueries>,
          dq_width<T>};
}
const Launchers kBFloat16Launchers = launchers_of<__nv_bfloat16>();
const Launchers kFloat16Launchers = launchers_of<__half>();

}  // namespace lace::cuda::portable
