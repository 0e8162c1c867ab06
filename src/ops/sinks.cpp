#include "ops/sinks.h"

#include <ATen/ATen.h>

namespace lace::ops {

namespace {

// [heads] beside rows [batch, heads, q_len].
at::Tensor of_rows(const at::Tensor& sinks, const at::Tensor& lse) {
  return sinks.to(lse.scalar_type()).unsqueeze(1);
}

// e^(a − b), 0 where both are −∞.
at::Tensor exp_of_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).exp_().masked_fill_(at::isneginf(a), 0);
}

}  // namespace

void join_sinks(const at::Tensor& out, const at::Tensor& lse, const at::Tensor& sinks) {
  const at::Tensor joined = at::logaddexp(lse, of_rows(sinks, lse));
  out.mul_(exp_of_difference(lse, joined).unsqueeze(3));
  lse.copy_(joined);
}

at::Tensor sinks_gradient(const at::Tensor& delta, const at::Tensor& lse, const at::Tensor& sinks) {
  const at::Tensor weights = exp_of_difference(of_rows(sinks, lse), lse);
  return weights.mul_(delta).sum(at::IntArrayRef({0, 2})).neg_().to(sinks.scalar_type());
}

}  // namespace lace::ops
