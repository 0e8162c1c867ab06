#pragma once

#include <cstdint>
#include <functional>

#include <ATen/core/Tensor.h>

#include "lace/model.h"

namespace lace::model {

// What one layer's attention works on. Query i of head h gives key j, of those that the pattern
// allows it, the weight exp(scale · q[h, i] · k[h ÷ (heads / kv_heads), j] − lse[h, i]).
struct LayerAttention {
  int64_t layer = 0;
  const Pattern& pattern;
  double scale = 1;
  at::Tensor q;    // compute [batch, heads, n, qk_head_dim], rotated where positions are
  at::Tensor k;    // compute [batch, kv_heads, n, qk_head_dim]
  at::Tensor lse;  // [batch, heads, n], as lace::attention_with_lse
};

// Shows `visit` the attention of each layer, from the first on, in a pass over tokens [batch, n]
// without dropout and without a graph, until it returns false. Throws as
// SparseTransformer::forward.
void visit_attention(const SparseTransformer& model, const at::Tensor& tokens,
                     const std::function<bool(const LayerAttention&)>& visit);

}  // namespace lace::model
