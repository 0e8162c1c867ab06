#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "lace/model.h"

#include "ops/device_profile.h"

namespace lace::train {

// What a training step's time on a GPU is for.
enum class StepPart {
  kProducts,           // matrix products of a library
  kAttentionForward,   // lace's kernels, as the next three
  kAttentionBackward,  // with its statistics and rounding
  kElementwise,        // embedding, norms, dropout, GELU, cross-entropy
  kOptimizer,          // gradient norm, Adam
  kOther,              // copies, fills, libtorch's own kernels
};
constexpr int kStepParts = 6;

// "products", "attention_forward", "attention_backward", "elementwise", "optimizer", "other"
std::string_view name(StepPart part);

// By the name of a kernel (mangled or not), copy or fill.
StepPart step_part(std::string_view span);

// Milliseconds of spans, which are in the order of their beginnings. Where two run at once, the
// time is the earlier one's: the parts add up to the time in which anything ran.
struct StepTimes {
  std::array<double, kStepParts> part_ms = {};
  double busy_ms = 0;    // the sum of the parts
  double extent_ms = 0;  // from the first beginning to the last end
  double of(StepPart part) const { return part_ms[static_cast<size_t>(part)]; }
};
StepTimes step_times(const std::vector<ops::DeviceSpan>& spans);

// Operations (a multiplication and an addition are two) that a training step of `sequences`
// sequences asks for, whatever is computed beyond it (tiles, recomputed blocks):
//   6 · tokens · weights of the linear layers
//   + 2 · sequences · live_pairs · (4 · qk_head_dim + 3 · v_head_dim)
// Forward, a pair needs q·k and p·v; backward q·k again, dout·v, and its parts of dv, dq, dk.
// `live_pairs` are those of all heads and layers.
double step_operations(const ModelConfig& model, int64_t sequences, double live_pairs);

}  // namespace lace::train
