#pragma once

#include <cstdint>
#include <vector>

#include "lace/model.h"

namespace lace::model {

// All parameters of a model in one array, so that what works on all of them is one pass: those of
// rank 2 and more first, which the optimiser may decay, then the others, each at a multiple of
// kAlignment elements; what lies between them is 0. Arrays of this layout: `values`, their copies
// in the compute dtype, gradients, and the optimiser's state.
class ParameterArena {
 public:
  static constexpr int64_t kAlignment = 128;

  ParameterArena(const std::vector<ParameterInfo>& infos, at::ScalarType compute,
                 at::Device device);

  // Leaves that require grad, in the order of infos, sharing memory with values().
  const std::vector<NamedParameter>& parameters() const { return parameters_; }
  const at::Tensor& parameter(size_t index) const { return parameters_[index].tensor; }

  int64_t size() const { return values_.numel(); }
  int64_t decayed() const { return decayed_; }                  // elements of the first part
  const at::Tensor& values() const { return values_; }          // wide [size]
  const at::Tensor& copies() const { return copies_; }          // compute [size]; undefined if wide
  int64_t begin(size_t index) const { return begins_[index]; }  // of a parameter, in elements

  at::Tensor zeros() const;  // a new array of this layout, wide
  // Parameter `index` of an array of this layout: shares its memory.
  at::Tensor view(const at::Tensor& array, size_t index) const;
  std::vector<at::Tensor> views(const at::Tensor& array) const;

  // The parameter in the compute dtype: shares memory with copies(), cast anew if the parameter has
  // changed, or with values().
  at::Tensor copy(size_t index) const;
  // Makes all copies what copy() gives.
  void refresh_copies() const;
  // The copies of elements [begin, end) = values, rounded.
  void round_values(int64_t begin, int64_t end) const;
  // Tells autograd that values() were changed past it, and that copies() are what they should be.
  void values_changed();

 private:
  std::vector<NamedParameter> parameters_;
  std::vector<int64_t> begins_;
  std::vector<std::vector<int64_t>> shapes_;
  int64_t decayed_ = 0;
  at::Tensor values_, copies_;
  mutable std::vector<int64_t> versions_;  // of the parameters when copies_ were made; −1: never
};

}  // namespace lace::model
