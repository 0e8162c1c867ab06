#include <cuda_fp16.h>

#include "kernels/cuda/sm90/attention_backward_kernel.cuh"

namespace lace::sm90 {

template BackwardKernel make_backward_kernel<__half, 256, BackwardMode::kDvAlone, true>();

}  // namespace lace::sm90
