#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "lace/recipe.h"

namespace lace::train {

// Tensors of any one device, parameter by parameter; `ema` may be empty.
struct AdamLists {
  std::vector<at::Tensor> parameters, gradients, m, v, ema;
};

// Adam's update (adam.h) by libtorch's operations, a few for all tensors together. The gradients
// are used up. `rate` is lr_t, `factor` multiplies the gradients.
void update_lists(const AdamLists& lists, const OptimizerConfig& config, double rate,
                  double factor);

}  // namespace lace::train
