#pragma once

#include "kernels/products/products.h"

namespace lace::cuda::products {

// The functions of Products that cuBLASLt computes.
void linear(const Context& context, const LinearArgs& args);
void grad_input(const Context& context, const LinearGradInputArgs& args);
void grad_weight(const Context& context, const LinearGradWeightArgs& args);

}  // namespace lace::cuda::products
