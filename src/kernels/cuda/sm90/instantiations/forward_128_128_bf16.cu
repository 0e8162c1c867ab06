#include <cuda_bf16.h>

#include "kernels/cuda/sm90/attention_forward_kernel.cuh"

namespace lace::sm90 {

template ForwardKernel make_forward_kernel<__nv_bfloat16, 128, 128, ForwardTiling::kStandard>();

}  // namespace lace::sm90
