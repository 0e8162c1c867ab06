#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "core/context.h"
#include "kernels/decode/cuda/step_words.h"
#include "kernels/decode/decode.h"

namespace lace {

// Decoding on a GPU: what decode.h says, with one launch a symbol, whose blocks wait for one
// another between its phases. The weights are bfloat16 or float16. Functions enqueue on
// context.stream and return; the stream's device must be the current one. In builds without CUDA
// they throw lace::Error.

constexpr int kMaxDecodePositions = 3;

// What the GPU reads of a model: all in its memory.
struct GpuDecodeTables {
  const DecodeBlock* blocks = nullptr;  // [layers]
  const HeadCache* caches = nullptr;    // [layers, kv_heads]
  const float *norm_weight = nullptr, *norm_bias = nullptr;
  const float* output_weight = nullptr;  // [vocab, d_model]
  const float* tokens = nullptr;         // embeddings [vocab, d_model]
  const float* start = nullptr;          // [d_model]
};

// How steps of a model and a batch are cut up on the current GPU.
struct GpuDecodePlan;
// Throws lace::Error `[decode] …` for a model that no step can be made for.
std::shared_ptr<const GpuDecodePlan> plan_gpu_decode(const DecodeShape& shape, int64_t batch);
// Bytes at a multiple of 256, zero before the first step; steps one after the other share them.
size_t workspace_bytes(const GpuDecodePlan& plan);
// "cuda"
std::string_view gpu_decode_name();

struct GpuDecodeStep {
  GpuDecodeTables tables;
  const cuda::decode::StepWords* changing = nullptr;  // of the position
  // A copy of changing->words in the GPU's memory, where a launch cannot carry them.
  const int32_t* far_words = nullptr;
  const float* positions[kMaxDecodePositions] = {};  // rows that embeddings are added to; or null
  const float *cos = nullptr, *sin = nullptr;        // [qk_dim / 2] of the position; null: as is
  float* logits = nullptr;  // [batch, vocab], of the GPU or pinned; null: not wanted
  std::byte* workspace = nullptr;
  uint32_t number = 0;  // another than those of the steps that the workspace has had before
};

// One slot more of each sequence.
void gpu_decode_step(const Context& context, const GpuDecodePlan& plan, const GpuDecodeStep& step);

// Where rows of a prefill go.
struct StoredRow {
  int32_t kv_head = 0, position = 0, slot = 0;
};
// Those that `writes` [kv_heads][positions] leave when they are done in ascending order: of the
// rows that go to one slot the last. A slot is named once, so the GPU may store them in any order.
std::vector<StoredRow> stored_rows(const std::vector<std::vector<std::vector<int64_t>>>& writes);

// Rows of a prefill: keys and values of one sequence in one layer.
struct GpuDecodeStore {
  int64_t sequence = 0;
  Tensor4 k, v;                       // compute [1, kv_heads, positions, …], begin anywhere
  const HeadCache* caches = nullptr;  // [kv_heads], in the GPU's memory
  const StoredRow* rows = nullptr;    // [count], in the GPU's memory, of stored_rows()
  int64_t count = 0;
};
void gpu_decode_store(const Context& context, const DecodeShape& shape,
                      const GpuDecodeStore& store);

}  // namespace lace
