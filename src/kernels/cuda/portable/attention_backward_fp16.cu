#include "kernels/cuda/portable/launchers.cuh"

namespace lace::cuda::portable {
template void launch_backward<__half, BackwardMode::kKeys>(BackwardLaunch, cudaStream_t);
template void launch_backward<__half, BackwardMode::kKeysAlone>(BackwardLaunch, cudaStream_t);
template void launch_backward<__half, BackwardMode::kQueries>(BackwardLaunch, cudaStream_t);
template int dq_width<__half>(const AttentionShape&);
template KernelTiles tiles_for<__half>(const AttentionShape&);
}  // namespace lace::cuda::portable
