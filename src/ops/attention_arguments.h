#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "lace/attention.h"

#include "kernels/kernel.h"

namespace lace::ops {

// Throws lace::Error naming `op` unless the rooms below know the type.
DType to_dtype(const char* op, at::ScalarType type);

// What lace::attention computes, its arguments checked.
struct AttentionArguments {
  AttentionShape shape;
  double scale = 1;
  double softcap = 0;                      // 0: none
  int64_t plan_q_len = 0, plan_k_len = 0;  // that the plan is for
};

// Throws lace::Error naming `op` and the first rule of lace/attention.h that q, k, v or options
// break. packed: q, k and v are [1, heads, rows, head_dim], of all sequences.
AttentionArguments check_attention(const char* op, const at::Tensor& q, const at::Tensor& k,
                                   const at::Tensor& v, const AttentionOptions& options,
                                   bool packed = false);

// Throws lace::Error unless dout, out, lse and, if defined, dlse fit what check_attention accepted.
void check_attention_backward(const AttentionArguments& arguments, const at::Tensor& dout,
                              const at::Tensor& out, const at::Tensor& lse, const at::Tensor& dlse);

// The dtype of lse for q of that dtype.
at::ScalarType lse_type(at::ScalarType q);

// `tensor` if its rows are contiguous, else a contiguous copy.
at::Tensor with_contiguous_rows(const at::Tensor& tensor);

// Memory for a result [batch, heads, rows, head_dim] that goes with `like`: contiguous where `like`
// is, otherwise in the order [batch, rows, heads, head_dim], as a fused projection has it, so that
// merging the heads again needs no copy.
at::Tensor empty_result(const at::Tensor& like, c10::SymInt batch, c10::SymInt heads,
                        c10::SymInt rows, c10::SymInt head_dim);

// packed: of a batch of 1 that all sequences share.
Tensor4 to_tensor4(const at::Tensor& tensor, bool packed = false);

// Whether a tensor of 16-bit elements is as AttentionShape::aligned asks for, once its rows are
// contiguous.
bool is_aligned(const at::Tensor& tensor);

// `tensor` if it has contiguous rows and is_aligned(), else a copy.
at::Tensor with_aligned_rows(const at::Tensor& tensor);

}  // namespace lace::ops
