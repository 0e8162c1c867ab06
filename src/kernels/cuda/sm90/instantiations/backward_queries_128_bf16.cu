#include <cuda_bf16.h>

#include "kernels/cuda/sm90/attention_backward_kernel.cuh"

namespace lace::sm90 {

template void launch_backward<__nv_bfloat16, 128, BackwardMode::kQueries>(const BackwardParams&,
                                                                          int, cudaStream_t);

}  // namespace lace::sm90
