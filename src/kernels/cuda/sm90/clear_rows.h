#pragma once

#include <initializer_list>

#include "core/context.h"
#include "kernels/cuda/sm90/sequence_items.h"
#include "kernels/kernel.h"

namespace lace::sm90 {

// Rows [batch, heads, rows, dim] of a result, each of whose 32-bit words becomes `word`: dim
// elements of `element_bytes`, a multiple of 4 bytes, at strides that are so too.
struct ResultRows {
  Tensor4 tensor;
  int64_t heads = 0, rows = 0;
  int32_t dim = 0, element_bytes = 2;
  uint32_t word = 0;
};

// Enqueues on context.stream: those of `results` (of one number of rows) that no sequence has, as
// `side` tells; where `sequences` is null, all.
void clear_rows(const Context& context, const AttentionShape& shape, const Sequence* sequences,
                const SequenceSide& side, std::initializer_list<ResultRows> results);

}  // namespace lace::sm90
