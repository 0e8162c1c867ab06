#include <cuda_bf16.h>

#include "kernels/cuda/sm90/attention_forward_kernel.cuh"

namespace lace::sm90 {

template ForwardKernel make_forward_kernel<__nv_bfloat16, 256, 256, ForwardTiling::kDeep>();

}  // namespace lace::sm90
