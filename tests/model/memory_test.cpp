// What recomputing whole blocks in backward saves.

#include <iostream>

#include <ATen/ATen.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gtest/gtest.h>

#include "small_model.h"

namespace lace {
namespace {

// Follows what libtorch's CPU allocator hands out on this thread.
class PeakMemory : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t bytes, size_t, size_t, c10::Device) override {
    current_ += bytes;
    peak_ = std::max(peak_, current_);
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t peak_bytes() const { return peak_; }

 private:
  int64_t current_ = 0, peak_ = 0;
};

int64_t peak_of_a_step(bool recompute) {
  ModelConfig config = small_config();
  config.seq_len = 512;
  config.layers = 8;
  config.dropout = 0.1;
  config.recompute = recompute;
  const SparseTransformer model(config);
  const at::Tensor tokens = random_tokens(2, 512);
  gradients(model, tokens);  // caches are warm, gradients allocated once
  const auto memory = std::make_shared<PeakMemory>();
  c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, memory);
  model.loss(tokens, {true, 0, 0}).backward();
  return memory->peak_bytes();
}

TEST(Memory, RecomputingBlocksNeedsLess) {
  const int64_t kept = peak_of_a_step(false), recomputed = peak_of_a_step(true);
  // A block keeps its input and attention's out (2 d) instead of input, qkv, attention's out, r,
  // two norms and twice the feed-forward's width (16 d).
  std::cout << "peak of a step, 8 layers of 1024 rows: " << kept / 1024 << " KiB kept, "
            << recomputed / 1024 << " KiB recomputed\n";
  EXPECT_GT(recomputed, 0);
  EXPECT_LT(recomputed, kept / 2);
}

}  // namespace
}  // namespace lace
