#include "kernels/decode/cuda/step.cuh"
#include "kernels/decode/cuda/step_kernels.h"

namespace lace::cuda::decode {

const void* step_kernel_fp16(const StepLayout& layout) { return find_step_kernel<__half>(layout); }

}  // namespace lace::cuda::decode
