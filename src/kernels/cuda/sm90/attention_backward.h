#pragma once

#include "kernels/kernel.h"

namespace lace::sm90 {

// The gradients of attention_forward.h's function, for the same shapes; kernel.h has the formula.
// Products of bf16 or fp16 in fp32, every gradient rounded once.
// Workspace: 8 bytes a query row; float32 [batch, heads, q_len, dim] for dq, dim being 64 or 128;
// for plans of several passes float32 [batch, kv_heads, k_len, dim] for dk and for dv as well.

// The tiles that transposed plans are compiled for.
TileShape backward_tile(const AttentionShape& shape);

// Enqueues on context.stream. Unless context.deterministic, dq is summed in no order that repeats.
// plan: of tiles 128 × 128; transposed: of backward_tile().
void backward(const Context& context, const Plan& plan, const Plan& transposed,
              const BackwardArgs& args);

}  // namespace lace::sm90
