#include "ops/sinks.h"

#include <numbers>

#include <ATen/ATen.h>

namespace lace::ops {

namespace {

// [heads] beside rows [batch, heads, q_len].
at::Tensor of_rows(const at::Tensor& sinks, const at::Tensor& lse) {
  return sinks.to(lse.scalar_type()).unsqueeze(1);
}

}  // namespace

void join_sinks(const at::Tensor& out, const at::Tensor& lse, const at::Tensor& sinks) {
  const at::Tensor none = lse == kNoRow;
  const at::Tensor column = of_rows(sinks, lse);
  const at::Tensor joined = at::logaddexp(lse, column).masked_fill_(none, -kNoRow);
  // e^(lse − joined). Not by at::exp, whose first call in a process may be less exact (pytorch
  // issue 188792).
  const at::Tensor share = (lse - column).sigmoid_().masked_fill_(none | at::isneginf(lse), 0);
  out.mul_(share.unsqueeze(3));
  lse.copy_(joined);
}

at::Tensor sinks_gradient(const at::Tensor& delta, const at::Tensor& lse, const at::Tensor& sinks) {
  const at::Tensor weights = (of_rows(sinks, lse) - lse).mul_(std::numbers::log2e).exp2_();
  const at::Tensor of_each = weights.mul_(delta).masked_fill_(at::isneginf(lse), 0);
  return of_each.sum(at::IntArrayRef({0, 2})).neg_().to(sinks.scalar_type());
}

}  // namespace lace::ops
