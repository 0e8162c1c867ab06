#pragma once

#include <limits>

#include <ATen/core/Tensor.h>

namespace lace::ops {

// Learned sinks: one more logit s of each row of a head, with a value of 0, joined to what a kernel
// computed without it. With L′ = log(e^lse + e^s):
//   lse ← L′,  out ← out · e^(lse − L′)
// which kernels' backward takes as they are. Rows whose L′ is −∞ (no keys, and a sink of −∞) stay
// 0; rows of no sequence, whose lse is kNoRow, get an lse of −∞.
//   out    [batch, heads, q_len, v_head_dim], changed in place
//   lse    [batch, heads, q_len], changed in place
//   sinks  [heads]
inline constexpr double kNoRow = std::numeric_limits<double>::infinity();
void join_sinks(const at::Tensor& out, const at::Tensor& lse, const at::Tensor& sinks);

// The gradient of sinks: Σ of e^(s − lse) · (dlse − dout·out) over the rows whose lse is not −∞.
//   delta  as lse: dout·out − dlse, of the joined out and lse
at::Tensor sinks_gradient(const at::Tensor& delta, const at::Tensor& lse, const at::Tensor& sinks);

}  // namespace lace::ops
