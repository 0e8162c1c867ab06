#pragma once

#include <span>
#include <string>
#include <string_view>

#include "kernels/products/products.h"

namespace lace::cuda::products {

// The rest of Products: products with quick-GELU or its gradient.
void linear_gelu(const Context& context, const LinearGeluArgs& args);
void grad_input_gelu(const Context& context, const GradInputGeluArgs& args);
extern const std::span<const std::string_view> kGeluWays;
std::string no_gelu_way(int way, const LinearShape& shape);

}  // namespace lace::cuda::products
