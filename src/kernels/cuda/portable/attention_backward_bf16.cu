#include "kernels/cuda/portable/launchers.cuh"

namespace lace::cuda::portable {
template void launch_backward<__nv_bfloat16, true>(BackwardLaunch, int, cudaStream_t);
template void launch_backward<__nv_bfloat16, false>(BackwardLaunch, int, cudaStream_t);
template void launch_statistics<__nv_bfloat16>(const BackwardLaunch&, const Rows&, const Rows&,
                                               const float*, RowStatistics*, cudaStream_t);
}  // namespace lace::cuda::portable
