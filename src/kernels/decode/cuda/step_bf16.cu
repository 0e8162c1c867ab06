#include "kernels/decode/cuda/lone_step.cuh"
#include "kernels/decode/cuda/step.cuh"
#include "kernels/decode/cuda/step_kernels.h"

namespace lace::cuda::decode {

const void* step_kernel_bf16(const StepLayout& layout) {
  return find_step_kernel<__nv_bfloat16>(layout);
}

const void* lone_step_kernel_bf16(const LoneLayout& layout) {
  return find_lone_kernel<__nv_bfloat16>(layout);
}

}  // namespace lace::cuda::decode
