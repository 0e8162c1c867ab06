#include <cuda_fp16.h>

#include "kernels/cuda/sm90/attention_forward_kernel.cuh"

namespace lace::sm90 {

template void launch_forward<__half, 128, 128, ForwardTiling::kStandard>(const ForwardParams&, int,
                                                                         cudaStream_t);

}  // namespace lace::sm90
