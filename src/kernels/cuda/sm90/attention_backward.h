#pragma once

#include "kernels/kernel.h"

namespace lace::sm90 {

// The gradients of attention_forward.h's function, for the same shapes; kernel.h has the formula.
// Products of bf16 or fp16 in fp32, every gradient rounded once.
// Workspace: 8 bytes a query row; float32 [batch, heads, q_len, dim] for dq, dim being 64 or 128;
// for plans of several passes as much a key row for dk and for dv as well (and for each query head
// where those of a key head have patterns of their own). No sums of dq are needed where every query
// is in one tile of the transposed plan alone. Else, where context.deterministic, where a plan of
// several passes would take more than 700 MB, and where items are short, dq is computed on its own,
// its sums ordered; passes then leave sums of which only half needs workspace.

// The tiles that transposed plans are compiled for.
TileShape backward_tile(const AttentionShape& shape);

// Enqueues on context.stream. Unless context.deterministic, dq may be summed in no order that
// repeats.
// plan: of tiles 128 × 128; transposed: of backward_tile().
void backward(const Context& context, const Plan& plan, const Plan& transposed,
              const BackwardArgs& args);

}  // namespace lace::sm90
