#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "kernels/cpu/tile.h"
#include "kernels/kernel.h"

namespace lace::cpu {

// One tile of queries on its way through the forward pass: the plain struct between
// attention_forward.cpp, compiled for the baseline, and the code of each instruction set.
// Lanes are queries. After any number of batches, for each query e over the keys seen so far,
// s(key) being q·key, negated where the scale is negative, or, where `capped`, tanh(cap_scale ·
// q·key):
//   max[e]     the largest s, not scaled, so that it is no rounding away from the s it is compared
//              with; kNoLogit if there was none
//   sum[e]     Σ 2^((s − max[e]) · scale)
//   out[d][e]  Σ 2^((s − max[e]) · scale) · v[d]
struct ForwardTile {
  int qk_dim = 0, v_dim = 0;
  float scale = 1;  // > 0, in base 2: |scale| or softcap · log2(e)
  bool capped = false;
  float cap_scale = 0;  // scale / softcap
  int owners = 0;       // lanes in use, in [1, kTileOwners]

  // Scratch, each 64-byte aligned.
  float* q = nullptr;       // packed [qk_dim][kTileOwners]; kPairs: pairs [qk_dim / 2][…]
  float* out = nullptr;     // [v_dim][kTileOwners]
  float* max = nullptr;     // [kTileOwners]
  float* sum = nullptr;     // [kTileOwners]
  float* factor = nullptr;  // [kTileOwners]
  float* peak = nullptr;    // [kTileOwners]
  float* logits = nullptr;  // [kBatchOthers][kTileOwners], then the weights
  uint32_t* weight_pairs = nullptr;  // kPairs: [kBatchOthers / 2][kTileOwners]
  uint32_t* v_pairs = nullptr;       // kPairs: [kBatchOthers / 2][v_dim], pairs of rows of v
  float* k_wide = nullptr;           // kWidened: [kBatchOthers][qk_dim]
  float* v_wide = nullptr;           // kWidened: [kBatchOthers][v_dim]
};

// What max starts from: finite, so that a query whose keys are all masked makes no NaN.
inline constexpr float kNoLogit = std::numeric_limits<float>::lowest();

// The arithmetic of forward for one instruction set and dtype. Rows are pointers to elements of it.
struct ForwardTypeOps {
  Operands operands;  // of q, k and v

  // Packs the queries; q_rows [owners], null for a lane without a row, which reads as 0.
  void (*pack_queries)(const ForwardTile&, const void* const* q_rows);
  // Sets out[d][e] = rows[e][d] · sum[e]; rows [owners] of floats.
  void (*resume)(const ForwardTile&, const float* const* rows);
  // Takes one batch of keys. ahead: rows to prefetch on the way, as long as the keys'.
  void (*add_batch)(const ForwardTile&, const OtherBatch&, const void* const* k_rows,
                    const void* const* v_rows, const void* const* ahead, int ahead_count);
  // Writes out / sum (0 where sum is 0) to rows [owners], of the dtype or of floats; a null row is
  // skipped.
  void (*finish)(const ForwardTile&, void* const* rows);
  void (*finish_fp32)(const ForwardTile&, float* const* rows);
};

// The code of an instruction set.
struct ForwardOps {
  ForwardTypeOps float32, bfloat16, float16;
};

extern const ForwardOps kForwardAvx512;
extern const ForwardOps kForwardAvx2;
extern const ForwardOps kForwardPortable;
// bf16 with dot products of pairs.
extern const ForwardTypeOps kForwardAvx512Bf16;

// Kernel::forward with the code of one instruction set.
//
// The passes of all groups run one after the other; within a pass every tile of queries is a task
// that keeps its queries, its accumulators and its logits in the thread's scratch while batches of
// keys stream past. A tile of a later pass resumes where the earlier passes left its rows, from
// their largest logits, sums and fp32 results, so that joining passes is one more step of the same
// online softmax. Results do not depend on the number of threads.
// Workspace: scratch for each thread; with several passes 8 bytes a row of q, and for 16-bit dtypes
// an fp32 copy of out.
// Preconditions: head_dims are at most kMaxHeadDim, the plan's tiles of owners at most kTileOwners.
void attention_forward(const ForwardTypeOps& ops, const Context& context, const Plan& plan,
                       const ForwardArgs& args);

}  // namespace lace::cpu
