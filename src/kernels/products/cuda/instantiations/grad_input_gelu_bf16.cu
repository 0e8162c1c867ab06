#include "kernels/products/cuda/gelu_kernels.cuh"

namespace lace::cuda::products {

void grad_input_gelu_bf16(int tiling, const GradInputGeluArgs& args, float* partials,
                          cudaStream_t stream) {
  grad_input_gelu<cutlass::bfloat16_t>(tiling, args, partials, stream);
}

}  // namespace lace::cuda::products
