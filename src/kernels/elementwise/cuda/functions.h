#pragma once

#include "kernels/elementwise/elementwise.h"

namespace lace::cuda::elementwise {

// The functions of ElementwiseKernels.
void norm(const Context& context, const NormArgs& args);
void norm_grad(const Context& context, const NormGradArgs& args);
void gelu(const Context& context, const GeluArgs& args);
void gelu_grad(const Context& context, const GeluGradArgs& args);
void column_sum(const Context& context, const ColumnSumArgs& args);
void rotate(const Context& context, const RotateArgs& args);
void cross_entropy(const Context& context, const CrossEntropyArgs& args);
void cross_entropy_grad(const Context& context, const CrossEntropyGradArgs& args);
void embedding(const Context& context, const EmbeddingArgs& args);
void embedding_grad(const Context& context, const EmbeddingGradArgs& args);
void adam_norm(const Context& context, const AdamArgs& args);
void adam_step(const Context& context, const AdamArgs& args);

}  // namespace lace::cuda::elementwise
