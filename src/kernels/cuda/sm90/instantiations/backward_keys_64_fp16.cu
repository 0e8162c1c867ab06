#include <cuda_fp16.h>

#include "kernels/cuda/sm90/attention_backward_kernel.cuh"

namespace lace::sm90 {

template void launch_backward<__half, 64, BackwardMode::kKeys>(const BackwardParams&, int,
                                                               cudaStream_t);

}  // namespace lace::sm90
