#pragma once

#include <string>

#include "kernels/kernel.h"

namespace lace::sm90 {

// Attention on Hopper GPUs: kernel.h has the formula and the shapes. bf16 and fp16 tensors,
// products and softmax accumulated in fp32, out rounded once; every plan of tiles up to 128 × 128,
// up to head_dim 64 also 192 × 128, and past 128 of 128 × 64. Workspace: a counter for each head;
// for plans of several passes float32 [batch, heads, q_len, 64, 128 or 256] as well.

// Empty, or why these kernels, backward included, do not compute `shape`.
std::string unsupported(const AttentionShape& shape);

// The tiles that plans are compiled for, and those that forward runs `plan`, so compiled, fastest
// with: 192 × 128 where its queries see many keys.
TileShape forward_tile(const AttentionShape& shape);
TileShape best_forward_tile(const AttentionShape& shape, const Plan& plan);

// Enqueues on context.stream, on whose device the tensors must be and which must be current.
void forward(const Context& context, const Plan& plan, const ForwardArgs& args);

}  // namespace lace::sm90
