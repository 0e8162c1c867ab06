#pragma once

#include <string>

#include "kernels/kernel.h"

namespace lace::cuda::portable {

// Attention on the tensor cores of sm_80 and newer, for every plan and any strides: the functions
// of kernels/kernel.h, bfloat16 and float16 with float32 sums and softmax. Partial results of
// passes stay float32 until one rounding.

// Empty, or why it does not compute this.
std::string unsupported(const AttentionShape& shape);
KernelTiles tiles(const AttentionShape& shape);
void forward(const Context& context, const Plan& plan, const ForwardArgs& args);
void backward(const Context& context, const Plan& plan, const Plan& transposed,
              const BackwardArgs& args);

}  // namespace lace::cuda::portable
