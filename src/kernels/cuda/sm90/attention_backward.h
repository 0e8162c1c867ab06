#pragma once

#include "kernels/kernel.h"

namespace lace::sm90 {

// The gradients of attention_forward.h's function, for the same shapes; kernel.h has the formula.
// Products of bf16 or fp16 in fp32, every gradient rounded once.
// Workspace: 8 bytes a query row; float32 [batch, heads, q_len, dim] for dq, dim being 64, 128 or
// 256; for plans of several passes as much a key row for dk and for dv as well (and for each query
// head where those of a key head have patterns of their own). No sums of dq are needed where every
// query is in one tile of the transposed plan alone. Else, where context.deterministic, where a
// plan of several passes would take more than 700 MB, where items are short, and past head_dim 128,
// dq is computed on its own, its sums ordered; passes then leave sums of which only half needs
// workspace. Past head_dim 128 dk and dv are computed apart too, so that every sum is ordered.

// The tiles that transposed plans are compiled for.
TileShape backward_tile(const AttentionShape& shape);

// Enqueues on context.stream. Unless context.deterministic, dq may be summed in no order that
// repeats.
// plan: of tiles of forward_tile(); transposed: of backward_tile().
void backward(const Context& context, const Plan& plan, const Plan& transposed,
              const BackwardArgs& args);

}  // namespace lace::sm90
