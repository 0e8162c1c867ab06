#include <cuda_bf16.h>

#include "kernels/cuda/sm90/attention_backward_kernel.cuh"

namespace lace::sm90 {

template void launch_backward<__nv_bfloat16, 64, BackwardMode::kKeysAlone>(const BackwardParams&,
                                                                           int, cudaStream_t);

}  // namespace lace::sm90
