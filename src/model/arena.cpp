#include "model/arena.h"

#include <numeric>

#include <ATen/ATen.h>

#include "model/layers.h"
#include "ops/torch_context.h"

namespace lace::model {

namespace {

int64_t element_count(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

// to ← from, in another dtype, by all threads of a CPU.
void cast(const at::Tensor& from, const at::Tensor& to) {
  if (!from.is_cpu()) {
    to.copy_(from);
    return;
  }
  constexpr int64_t kPart = 1 << 16;
  run_tasks(ops::current_executor(), (from.size(0) + kPart - 1) / kPart, [&](int64_t part, int) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const int64_t begin = part * kPart, count = std::min(kPart, from.size(0) - begin);
    to.narrow(0, begin, count).copy_(from.narrow(0, begin, count));
  });
}

}  // namespace

ParameterArena::ParameterArena(const std::vector<ParameterInfo>& infos, at::ScalarType compute,
                               at::Device device) {
  begins_.resize(infos.size());
  int64_t size = 0;
  for (const bool matrices : {true, false}) {
    for (size_t i = 0; i < infos.size(); ++i) {
      if ((infos[i].shape.size() > 1) != matrices) continue;
      begins_[i] = size;
      size += (element_count(infos[i].shape) + kAlignment - 1) / kAlignment * kAlignment;
    }
    if (matrices) decayed_ = size;
  }
  const auto options = at::TensorOptions().device(device);
  const at::ScalarType wide = wide_type(compute);
  values_ = at::zeros({size}, options.dtype(wide));
  if (compute != wide) copies_ = at::zeros({size}, options.dtype(compute));
  versions_.assign(infos.size(), -1);
  for (size_t i = 0; i < infos.size(); ++i) {
    shapes_.push_back(infos[i].shape);
    // A tensor of its own on the memory, not a view in autograd's sense: a leaf with a version.
    at::Tensor leaf = at::empty({0}, values_.options());
    const at::Tensor place = view(values_, i);
    leaf.set_(values_.storage(), place.storage_offset(), place.sizes(), place.strides());
    parameters_.push_back({infos[i].name, leaf.requires_grad_()});
  }
}

at::Tensor ParameterArena::zeros() const { return at::zeros_like(values_); }

at::Tensor ParameterArena::view(const at::Tensor& array, size_t index) const {
  return array.narrow(0, begins_[index], element_count(shapes_[index])).view(shapes_[index]);
}

std::vector<at::Tensor> ParameterArena::views(const at::Tensor& array) const {
  std::vector<at::Tensor> views;
  for (size_t i = 0; i < parameters_.size(); ++i) views.push_back(view(array, i));
  return views;
}

at::Tensor ParameterArena::copy(size_t index) const {
  const at::Tensor& master = parameter(index);
  if (!copies_.defined()) return master.detach();
  const at::Tensor result = view(copies_, index);
  if (versions_[index] != master._version()) {
    cast(master.detach().view({-1}), result.view({-1}));
    versions_[index] = master._version();
  }
  return result;
}

void ParameterArena::refresh_copies() const {
  if (!copies_.defined()) return;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (versions_[i] != parameter(i)._version()) copy(i);
  }
}

void ParameterArena::round_values(int64_t begin, int64_t end) const {
  if (!copies_.defined() || begin == end) return;
  cast(values_.narrow(0, begin, end - begin), copies_.narrow(0, begin, end - begin));
}

void ParameterArena::values_changed() {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    parameter(i).unsafeGetTensorImpl()->bump_version();
    versions_[i] = parameter(i)._version();
  }
}

}  // namespace lace::model
