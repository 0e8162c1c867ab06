#include "train/ranks.h"

#include <ATen/ATen.h>

namespace lace::train {
namespace {

at::Tensor to_tensor(const std::vector<double>& numbers, at::Device device) {
  return at::tensor(numbers, at::kDouble).to(device);
}

std::vector<double> to_numbers(const at::Tensor& tensor) {
  const at::Tensor here = tensor.cpu();
  const double* begin = here.data_ptr<double>();
  return {begin, begin + here.numel()};
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

}  // namespace lace::train
