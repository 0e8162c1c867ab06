#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "core/context.h"
#include "core/dtype.h"
#include "kernels/kernel.h"
#include "pattern/key_runs.h"

namespace lace {

// Decoding: one slot more of each of `batch` sequences, through all layers of a model, reading its
// weights once and of the caches the rows that the keys of each head lie in. The table of functions
// is that of CPUs; what a GPU takes besides is in gpu_decode.h.
//
// `compute` is the dtype of the linear layers' weights and of values in a cache. `wide` is float64
// where compute is, else float32: the dtype of all else, queries and keys included (the paper
// samples with both in float32).

struct DecodeShape {
  DType compute = DType::kFloat32;
  int64_t layers = 0, d_model = 0;
  int64_t heads = 0, kv_heads = 0, qk_dim = 0, v_dim = 0;  // dims of one head
  int64_t ff_width = 0, vocab = 0;
  double block_eps = 0, final_eps = 0;
};

// Parameters of a block; weights [out, in] row by row.
struct DecodeBlock {
  const void *norm1_weight = nullptr, *norm1_bias = nullptr;  // wide
  const void *qkv_weight = nullptr, *qkv_bias = nullptr;      // compute, as the four below
  const void *proj_weight = nullptr, *proj_bias = nullptr;
  const void *norm2_weight = nullptr, *norm2_bias = nullptr;  // wide
  const void *ff1_weight = nullptr, *ff1_bias = nullptr;
  const void *ff2_weight = nullptr, *ff2_bias = nullptr;
};

// Memory of the device that the caller keeps.
struct DecodeModel {
  DecodeShape shape;
  std::vector<DecodeBlock> blocks;
  const void *norm_weight = nullptr, *norm_bias = nullptr;  // the last norm's, wide
  const void* output_weight = nullptr;                      // wide [vocab, d_model]
};

// The cache of one key head in one layer: a row a slot, slots of one sequence after those of the
// one before. A row is a key, wide [qk_dim], rotated, and behind it a value, compute [v_dim],
// filled up to row_bytes().
struct HeadCache {
  void* rows = nullptr;
  int64_t slots = 0;  // of one sequence
};

// Where the new rows go and what their queries read, by slots: the same for all sequences.
struct LayerSlots {
  std::vector<std::vector<int64_t>> writes;  // by key head
  std::vector<pattern::KeyRuns> reads;       // by query head; with the new row where it is a key
};

struct DecodeStep {
  int64_t batch = 0;
  void* x = nullptr;                          // wide [batch, d_model]: embedded symbols; lost
  const HeadCache* caches = nullptr;          // [layers, kv_heads]
  const LayerSlots* const* slots = nullptr;   // [layers]
  const void *cos = nullptr, *sin = nullptr;  // wide [qk_dim / 2] of the position; null: as is
  void* logits = nullptr;                     // wide [batch, vocab]; null: not wanted
  void* workspace = nullptr;                  // workspace_bytes(), aligned to 64
};

// Rows of a prefill: keys and values of the first `count` positions of one sequence in one layer.
struct DecodeStore {
  int64_t sequence = 0, count = 0;
  Tensor4 k, v;                                               // compute [1, kv_heads, count, …]
  const HeadCache* caches = nullptr;                          // [kv_heads]
  const std::vector<std::vector<int64_t>>* writes = nullptr;  // [kv_heads]: slots by position
};

struct DecodeKernels {
  std::string_view name;
  size_t (*workspace_bytes)(const DecodeShape&, int64_t batch, int threads);
  // The result of a sequence does not depend on the others nor on the number of threads.
  void (*step)(const Context&, const DecodeModel&, const DecodeStep&);
  void (*store)(const Context&, const DecodeShape&, const DecodeStore&);
};

// A multiple of 16.
inline int64_t row_bytes(const DecodeShape& shape) {
  const int64_t wide = shape.compute == DType::kFloat64 ? 8 : 4;
  const int64_t used = shape.qk_dim * wide + shape.v_dim * size_bytes(shape.compute);
  return (used + 15) / 16 * 16;
}

// The table of a CPU: the best one now (core/instruction_set.h). What a GPU does is in
// gpu_decode.h.
const DecodeKernels& decode_kernels();

}  // namespace lace
