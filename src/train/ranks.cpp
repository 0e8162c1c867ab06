#include "train/ranks.h"

#include <algorithm>

#include <ATen/ATen.h>

namespace lace::train {

using distributed::Range;

namespace {

at::Tensor to_tensor(const std::vector<double>& numbers, at::Device device) {
  return at::tensor(numbers, at::kDouble).to(device);
}

std::vector<double> to_numbers(const at::Tensor& tensor) {
  const at::Tensor here = tensor.cpu();
  const double* begin = here.data_ptr<double>();
  return {begin, begin + here.numel()};
}

// Elements `range` of what begins with element `begin`.
at::Tensor part(const at::Tensor& tensor, int64_t begin, const Range& range) {
  return tensor.narrow(0, range.begin - begin, range.end - range.begin);
}

// What is in both; empty if nothing is.
Range common(const Range& a, const Range& b) {
  const int64_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

}  // namespace

std::vector<double> Ranks::join(const std::vector<double>& own) const {
  if (!group_) return own;
  const at::Tensor tensor = to_tensor(own, group_->device());
  group_->all_reduce_sum(tensor);
  std::vector<double> all = to_numbers(tensor);
  group_->check();
  return all;
}

void Ranks::share(const std::vector<NamedParameter>& tensors, std::vector<double>& numbers) const {
  if (!group_) return;
  const at::NoGradGuard no_grad;
  for (const NamedParameter& p : tensors) {
    // In a copy, so that the parameter knows that it has changed.
    const at::Tensor given = p.tensor.detach().clone();
    group_->broadcast(given);
    p.tensor.copy_(given);
  }
  const at::Tensor tensor = to_tensor(numbers, group_->device());
  group_->broadcast(tensor);
  numbers = to_numbers(tensor);
  group_->check();
}

void Ranks::gather(const at::Tensor& whole) const {
  if (divides_state_) group_->all_gather(whole, state_share(whole.numel(), 0).end);
}

at::Tensor Ranks::collect(const at::Tensor& share, int64_t n, const Range& range) const {
  const at::Tensor result = at::empty({range.end - range.begin}, share.options());
  for (int owner = 0; owner < size(); ++owner) {
    const Range own = state_share(n, owner), piece = common(range, own);
    if (piece.begin == piece.end) continue;
    const at::Tensor to = part(result, range.begin, piece);
    if (owner == rank()) to.copy_(part(share, own.begin, piece));
    if (owner != 0) group_->broadcast(to, owner);
  }
  return result;
}

void Ranks::deal(const at::Tensor& values, const at::Tensor& share, int64_t n,
                 const Range& range) const {
  group_->broadcast(values);
  const Range own = state_share(n), piece = common(range, own);
  if (piece.begin < piece.end)
    part(share, own.begin, piece).copy_(part(values, range.begin, piece));
}

void Ranks::wait(const at::Tensor& tensor) const {
  tensor.narrow(0, 0, 1).cpu();
  check();
}

}  // namespace lace::train
