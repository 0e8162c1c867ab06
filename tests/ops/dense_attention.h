#pragma once

#include <utility>

#include <ATen/ATen.h>

#include "lace/pattern.h"

namespace lace::test {

// The formula of lace/attention.h in libtorch's own operations, over a mask made from `attends`:
// out and lse, with 0 and −inf for a row without keys.
inline std::pair<at::Tensor, at::Tensor> dense_attention(const at::Tensor& q, const at::Tensor& k,
                                                         const at::Tensor& v,
                                                         const Pattern& pattern, double scale) {
  const int64_t heads = q.size(1), q_len = q.size(2), k_len = k.size(2);
  const BoundPattern bound = pattern.bind(heads, q_len, k_len);
  at::Tensor live = at::zeros({heads, q_len, k_len}, at::kBool);
  auto bits = live.accessor<bool, 3>();
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < q_len; ++i) {
      for (int64_t j = 0; j < k_len; ++j) bits[h][i][j] = bound.attends(h, k_len - q_len + i, j);
    }
  }
  const int64_t shared = heads / k.size(1);
  const at::Tensor keys = k.repeat_interleave(shared, 1);
  const at::Tensor values = v.repeat_interleave(shared, 1);
  const at::Tensor logits = at::matmul(q, keys.transpose(2, 3)) * scale;
  const at::Tensor empty = at::logical_not(live.any(2, true));
  // exp(−inf − (−inf)) would be NaN: rows without keys take part with all keys, then are set.
  const at::Tensor kept =
      logits.masked_fill(at::logical_not(at::logical_or(live, empty)), -INFINITY);
  const at::Tensor out = at::matmul(at::softmax(kept, -1), values).masked_fill(empty, 0);
  // lse = max − log softmax(max). Not at::logsumexp, nor any exp or log of at: MKL's functions
  // under them choose their kernels at the first call, and where two threads make it one may get
  // another, good to 1e-9 (pytorch issue 188792).
  const at::Tensor lse = at::amax(kept, {-1}) - at::amax(at::log_softmax(kept, -1), {-1});
  return {out, lse.masked_fill(empty.squeeze(2), -INFINITY)};
}

// A tensor of normal values that asks for a gradient.
inline at::Tensor random_leaf(at::IntArrayRef sizes, at::ScalarType type) {
  return at::randn(sizes, at::kDouble).to(type).set_requires_grad(true);
}

}  // namespace lace::test
