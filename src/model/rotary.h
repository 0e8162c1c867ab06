#pragma once

#include <vector>

#include "lace/model.h"

namespace lace::model {

// What rotary positions turn by: pair d of a head at position i by i · frequencies[d], after which
// both numbers are multiplied by `factor`.
struct RotaryAngles {
  std::vector<double> frequencies;  // [qk_head_dim / 2]
  double factor = 1;
};
RotaryAngles rotary_angles(const ModelConfig& config);

// factor · cos and factor · sin of all positions: wide [seq_len, qk_head_dim / 2].
struct Rotary {
  at::Tensor cos, sin;
};
// Computed in float64, then rounded. Undefined unless the positions are rotary.
Rotary make_rotary(const ModelConfig& config, const at::TensorOptions& wide);

}  // namespace lace::model
