#include "model/rotary.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include <ATen/ATen.h>

namespace lace::model {

namespace {

// The share of a frequency that YaRN leaves as it is.
double yarn_kept(const ModelConfig& config, double frequency) {
  const auto length = static_cast<double>(config.rotary_original_length_or_default());
  const double turns = length * frequency / (2 * std::numbers::pi);
  const double slow = config.rotary_beta_slow, fast = config.rotary_beta_fast;
  return std::clamp((turns - slow) / (fast - slow), 0.0, 1.0);
}

}  // namespace

RotaryAngles rotary_angles(const ModelConfig& config) {
  RotaryAngles angles;
  const int64_t head_dim = config.qk_head_dim();
  for (int64_t d = 0; d < head_dim / 2; ++d) {
    const double frequency =
        std::pow(config.rotary_base, -2 * static_cast<double>(d) / static_cast<double>(head_dim));
    const double kept = config.rotary_scaling == RotaryScaling::kNone ? 1
                        : config.rotary_scaling == RotaryScaling::kYarn
                            ? yarn_kept(config, frequency)
                            : 0;
    angles.frequencies.push_back(frequency * (kept + (1 - kept) / config.rotary_factor));
  }
  if (config.rotary_scaling == RotaryScaling::kYarn) {
    angles.factor = 0.1 * std::log(config.rotary_factor) + 1;
  }
  return angles;
}

Rotary make_rotary(const ModelConfig& config, const at::TensorOptions& wide) {
  if (config.positions != PositionKind::kRotary) return {};
  const RotaryAngles angles = rotary_angles(config);
  const auto pairs = static_cast<int64_t>(angles.frequencies.size());
  const at::Tensor cos = at::empty({config.seq_len, pairs}, at::kDouble);
  const at::Tensor sin = at::empty_like(cos);
  auto* cos_row = cos.mutable_data_ptr<double>();
  auto* sin_row = sin.mutable_data_ptr<double>();
  // The standard library's functions: those of at are not always the same to the last bits, as
  // MKL's under them choose their kernels while the first call runs (pytorch issue 188792).
  for (int64_t i = 0; i < config.seq_len; ++i) {
    for (const double frequency : angles.frequencies) {
      const double turned = static_cast<double>(i) * frequency;
      *cos_row++ = angles.factor * std::cos(turned);
      *sin_row++ = angles.factor * std::sin(turned);
    }
  }
  return {cos.to(wide), sin.to(wide)};
}

}  // namespace lace::model
