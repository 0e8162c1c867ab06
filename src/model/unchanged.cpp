#include "model/unchanged.h"

#include "lace/error.h"

namespace lace::model {

std::vector<at::Tensor> tensors_of(const std::vector<NamedParameter>& parameters) {
  std::vector<at::Tensor> tensors;
  for (const NamedParameter& parameter : parameters) tensors.push_back(parameter.tensor);
  return tensors;
}

Unchanged::Unchanged(std::vector<NamedParameter> parameters) : parameters_(std::move(parameters)) {
  for (const auto& [name, tensor] : parameters_) versions_.push_back(tensor._version());
}

void Unchanged::check(std::string_view until) const {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const auto& [name, tensor] = parameters_[i];
    LACE_CHECK(tensor._version() == versions_[i], "[model] parameters must stay as they are ",
               until, ", ", name, " has changed");
  }
}

}  // namespace lace::model
