#include "kernels/elementwise/cuda/cuda_elementwise.h"

#include "kernels/elementwise/cuda/functions.h"

namespace lace::cuda {

const ElementwiseKernels kElementwise = {
    "cuda",
    elementwise::norm,
    elementwise::norm_grad,
    elementwise::gelu,
    elementwise::gelu_grad,
    elementwise::column_sum,
    elementwise::rotate,
    elementwise::cross_entropy,
    elementwise::cross_entropy_grad,
    elementwise::embedding,
    elementwise::embedding_grad,
    elementwise::adam_norm,
    elementwise::adam_step,
};

}  // namespace lace::cuda
