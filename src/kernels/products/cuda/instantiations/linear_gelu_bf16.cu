#include "kernels/products/cuda/gelu_kernels.cuh"

namespace lace::cuda::products {

void linear_gelu_bf16(int tiling, const LinearGeluArgs& args, cudaStream_t stream) {
  linear_gelu<cutlass::bfloat16_t>(tiling, args, stream);
}

}  // namespace lace::cuda::products
