#include <cuda_bf16.h>

#include "kernels/cuda/sm90/attention_forward_kernel.cuh"

namespace lace::sm90 {

template void launch_forward<__nv_bfloat16, 64, 64, ForwardTiling::kWide>(const ForwardParams&, int,
                                                                          cudaStream_t);

}  // namespace lace::sm90
