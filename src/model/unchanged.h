#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "lace/model.h"

namespace lace::model {

constexpr std::string_view kUntilBackward = "between a loss and its backward()";

std::vector<at::Tensor> tensors_of(const std::vector<NamedParameter>& parameters);

// Parameters as a pass found them, for who comes back to them later: backward, or the next symbol
// of a sequence. A change is seen by autograd's version counter.
class Unchanged {
 public:
  explicit Unchanged(std::vector<NamedParameter> parameters);

  // Throws lace::Error `[model] parameters must stay as they are `until`, … has changed`.
  void check(std::string_view until) const;

  const std::vector<NamedParameter>& parameters() const { return parameters_; }

 private:
  std::vector<NamedParameter> parameters_;
  std::vector<int64_t> versions_;
};

}  // namespace lace::model
