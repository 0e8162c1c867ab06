#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

#include "lace/sequences.h"

#include "kernels/kernel.h"

namespace lace::ops {

// `table` as kernels take it; null if it is undefined.
const Sequence* sequences_of(const at::Tensor& table);

// Throws lace::Error naming `op` unless `table` fits the shape, whose `packed` and `batch` are set,
// and, where it is on a CPU, all sequences lie in the tensors and no two share a row.
void check_sequences(const char* op, const AttentionShape& shape, const at::Tensor& table);

// The positions of the plan for these sequences: at least those that any has, as far as is known,
// or max_len; a number of few different ones, so that few plans serve all lengths.
int64_t plan_length(const char* op, const AttentionShape& shape, const at::Tensor& table,
                    std::optional<int64_t> max_len);

}  // namespace lace::ops
