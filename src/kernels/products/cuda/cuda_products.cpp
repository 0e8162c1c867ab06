// The table of a build with CUDA.

#include "kernels/products/cuda/cublas_products.h"
#include "kernels/products/cuda/gelu_products.h"

namespace lace {

const Products* products(Device device) {
  namespace gpu = cuda::products;
  static const Products table = {gpu::linear,      gpu::grad_input,      gpu::grad_weight,
                                 gpu::linear_gelu, gpu::grad_input_gelu, gpu::kGeluWays,
                                 gpu::no_gelu_way};
  return device == Device::kCuda ? &table : nullptr;
}

}  // namespace lace
