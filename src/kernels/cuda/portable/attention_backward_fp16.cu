#include "kernels/cuda/portable/launchers.cuh"

namespace lace::cuda::portable {
template void launch_backward<__half, true>(BackwardLaunch, int, cudaStream_t);
template void launch_backward<__half, false>(BackwardLaunch, int, cudaStream_t);
template void launch_statistics<__half>(const BackwardLaunch&, const Rows&, const Rows&,
                                        const float*, RowStatistics*, cudaStream_t);
}  // namespace lace::cuda::portable
