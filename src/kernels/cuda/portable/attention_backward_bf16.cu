#include "kernels/cuda/portable/launchers.cuh"

namespace lace::cuda::portable {
template void launch_backward<__nv_bfloat16, BackwardMode::kKeys>(BackwardLaunch, cudaStream_t);
template void launch_backward<__nv_bfloat16, BackwardMode::kKeysAlone>(BackwardLaunch,
                                                                       cudaStream_t);
template void launch_backward<__nv_bfloat16, BackwardMode::kQueries>(BackwardLaunch, cudaStream_t);
template int dq_width<__nv_bfloat16>(const AttentionShape&);
template KernelTiles tiles_for<__nv_bfloat16>(const AttentionShape&);
}  // namespace lace::cuda::portable
