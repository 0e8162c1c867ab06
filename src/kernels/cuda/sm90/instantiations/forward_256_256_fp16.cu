#include <cuda_fp16.h>

#include "kernels/cuda/sm90/attention_forward_kernel.cuh"

namespace lace::sm90 {

template ForwardKernel make_forward_kernel<__half, 256, 256, ForwardTiling::kDeep>();

}  // namespace lace::sm90
