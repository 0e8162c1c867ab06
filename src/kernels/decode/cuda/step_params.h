#pragma once

#include <cstdint>

#include "kernels/decode/cuda/lone_tasks.h"
#include "kernels/decode/cuda/step_words.h"
#include "kernels/decode/cuda/tasks.h"
#include "kernels/decode/gpu_decode.h"

namespace lace::cuda::decode {

// What the kernels of a step are told: less than the 4 KB that every launch may carry.
struct StepArguments {
  StepShape shape;
  GpuDecodeTables tables;
  float block_eps = 0, final_eps = 0;
  int64_t row_bytes = 0;  // of a cache
  const float* positions[kMaxDecodePositions] = {};
  const float *cos = nullptr, *sin = nullptr;  // of the position; null: as is
  float* logits = nullptr;                     // null: not wanted
  std::byte* workspace = nullptr;
  int patterns = 0, reads = 0, writes = 0;  // as StepWords has them
  int word_count = 0;
  const int32_t* far_words = nullptr;  // null: in `words`
  int32_t words[kLaunchWords];
};

struct StepParams : StepArguments {
  StepLayout layout;
  int batch = 0;
};

// Of one sequence.
struct LoneParams : StepArguments {
  LoneLayout layout;
  uint32_t stamp = 0;  // that values of the first layer carry; those of the next one more
};

static_assert(sizeof(StepParams) <= 4096 && sizeof(LoneParams) <= 4096,
              "a launch carries at most 4 KB");

}  // namespace lace::cuda::decode
