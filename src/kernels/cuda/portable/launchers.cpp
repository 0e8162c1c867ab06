#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/portable/launch.h"

namespace lace::cuda::portable {

template <typename T>
void launch_forward(const ForwardLaunch&, int, cudaStream_t);
template <typename T, bool kKeys>
void launch_backward(BackwardLaunch, int, cudaStream_t);
template <typename T>
void launch_statistics(const BackwardLaunch&, const Rows&, const Rows&, const float*,
                       RowStatistics*, cudaStream_t);

// Instantiated in attention_{forward,backward}_{bf16,fp16}.cu.
extern template void launch_forward<__nv_bfloat16>(const ForwardLaunch&, int, cudaStream_t);
extern template void launch_forward<__half>(const ForwardLaunch&, int, cudaStream_t);
extern template void launch_backward<__nv_bfloat16, true>(BackwardLaunch, int, cudaStream_t);
extern template void launch_backward<__nv_bfloat16, false>(BackwardLaunch, int, cudaStream_t);
extern template void launch_backward<__half, true>(BackwardLaunch, int, cudaStream_t);
extern template void launch_backward<__half, false>(BackwardLaunch, int, cudaStream_t);
extern template void launch_statistics<__nv_bfloat16>(const BackwardLaunch&, const Rows&,
                                                      const Rows&, const float*, RowStatistics*,
                                                      cudaStream_t);
extern template void launch_statistics<__half>(const BackwardLaunch&, const Rows&, const Rows&,
                                               const float*, RowStatistics*, cudaStream_t);

const Launchers kBFloat16Launchers = {
    launch_forward<__nv_bfloat16>, launch_statistics<__nv_bfloat16>,
    launch_backward<__nv_bfloat16, true>, launch_backward<__nv_bfloat16, false>};
const Launchers kFloat16Launchers = {launch_forward<__half>, launch_statistics<__half>,
                                     launch_backward<__half, true>, launch_backward<__half, false>};

}  // namespace lace::cuda::portable
