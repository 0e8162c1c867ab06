#include "train/step_parts.h"

#include <algorithm>
#include <initializer_list>

namespace lace::train {

namespace {

bool has_any(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::any_of(words.begin(), words.end(), [&](std::string_view word) {
    return text.find(word) != std::string_view::npos;
  });
}

}  // namespace

std::string_view name(StepPart part) {
  constexpr std::string_view kNames[kStepParts] = {
      "products", "attention_forward", "attention_backward", "elementwise", "optimizer", "other"};
  return kNames[static_cast<size_t>(part)];
}

StepPart step_part(std::string_view span) {
  if (has_any(span, {"at::native", "at6native"})) return StepPart::kOther;
  if (has_any(span, {"lace::", "4lace"})) {
    if (has_any(span, {"statistics_kernel", "round_kernel", "backward_kernel"}))
      return StepPart::kAttentionBackward;
    if (has_any(span, {"forward_kernel"})) return StepPart::kAttentionForward;
    if (has_any(span, {"squares_kernel", "state_kernel", "update_kernel"}))
      return StepPart::kOptimizer;
    if (!has_any(span, {"gemm", "Gemm"})) return StepPart::kElementwise;
  }
  // cuBLAS calls its kernels for Hopper nvjet_…; the rest serve its other ways to multiply.
  if (has_any(span, {"nvjet", "gemm", "Gemm", "GEMM", "gemv", "cutlass", "cublas", "splitK"}))
    return StepPart::kProducts;
  return StepPart::kOther;
}

StepTimes step_times(const std::vector<ops::DeviceSpan>& spans) {
  StepTimes times;
  if (spans.empty()) return times;
  int64_t covered = spans.front().begin_ns;
  for (const ops::DeviceSpan& span : spans) {
    const int64_t own = std::max<int64_t>(0, span.end_ns - std::max(span.begin_ns, covered));
    covered = std::max(covered, span.end_ns);
    times.part_ms[static_cast<size_t>(step_part(span.name))] += 1e-6 * static_cast<double>(own);
  }
  for (const double part : times.part_ms) times.busy_ms += part;
  times.extent_ms = 1e-6 * static_cast<double>(covered - spans.front().begin_ns);
  return times;
}

double step_operations(const ModelConfig& model, int64_t sequences, double live_pairs) {
  const int64_t block = model.d_model * model.qkv_width() +
                        model.v_dim_or_default() * model.d_model +
                        2 * model.d_model * model.ff_width();
  const int64_t weights = model.layers * block + model.d_model * model.vocab;
  const auto tokens = static_cast<double>(sequences * model.seq_len);
  const auto dims = static_cast<double>(4 * model.qk_head_dim() + 3 * model.v_head_dim());
  return 6 * tokens * static_cast<double>(weights) +
         2 * static_cast<double>(sequences) * live_pairs * dims;
}

}  // namespace lace::train
