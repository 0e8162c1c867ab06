#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/tile.h"
#include "kernels/kernel.h"

namespace lace::cpu {

// One tile of queries on its way through the forward pass: the plain struct between
// attention_forward.cpp, compiled for the baseline, and the code of each instruction set.
// Lanes are queries. After any number of batches, for each query e over the keys seen so far:
//   max[e]     the largest logit, in base 2 (q·k · scale); kNoLogit if there was none
//   sum[e]     Σ 2^(logit − max[e])
//   out[d][e]  Σ 2^(logit − max[e]) · v[d]
struct ForwardTile {
  bool bf16 = false;
  int qk_dim = 0, v_dim = 0;
  float scale = 1;  // > 0, in base 2: |scale| · log2(e)
  int owners = 0;   // lanes in use, in [1, kTileOwners]

  // Scratch, each 64-byte aligned.
  float* q = nullptr;       // packed [qk_dim][kTileOwners], or as bf16 pairs [qk_dim / 2][…]
  float* out = nullptr;     // [v_dim][kTileOwners]
  float* max = nullptr;     // [kTileOwners]
  float* sum = nullptr;     // [kTileOwners]
  float* factor = nullptr;  // [kTileOwners]
  float* peak = nullptr;    // [kTileOwners]
  float* logits = nullptr;  // [kBatchOthers][kTileOwners], then the weights
  float* weight_pairs = nullptr;  // bf16 pairs: [kBatchOthers / 2][kTileOwners]
  float* k_wide = nullptr;        // bf16: [kBatchOthers][qk_dim] of k as floats
  float* v_wide = nullptr;  // bf16: [kBatchOthers][v_dim] of v as floats, or pairs of its rows
};

// What max starts from: finite, so that a query whose keys are all masked makes no NaN.
inline constexpr float kNoLogit = -3e38f;

// Rows are pointers to float or bf16 (uint16_t), as ForwardTile::bf16 says.
struct ForwardOps {
  bool packs_pairs;  // q as bf16 pairs: the code has bf16 dot products

  // Packs the queries; q_rows [owners], null for a lane without a row.
  void (*pack_queries)(const ForwardTile&, const void* const* q_rows);
  // Sets out[d][e] = rows[e][d] · sum[e]; rows [owners] of floats.
  void (*resume)(const ForwardTile&, const float* const* rows);
  // Takes one batch of keys. ahead: rows to prefetch on the way, as long as the keys'.
  void (*take)(const ForwardTile&, const Batch&, const void* const* k_rows,
               const void* const* v_rows, const void* const* ahead, int ahead_count);
  // Writes out / sum (0 where sum is 0) to rows [owners]; a null row is skipped.
  void (*finish)(const ForwardTile&, void* const* rows, bool rows_bf16);
};

extern const ForwardOps kForwardAvx512Bf16;
extern const ForwardOps kForwardAvx512;
extern const ForwardOps kForwardAvx2;
extern const ForwardOps kForwardPortable;

// Kernel::forward with the code of one instruction set.
//
// The passes of all groups run one after the other; within a pass every tile of queries is a task
// that keeps its queries, its accumulators and its logits in the thread's scratch while batches of
// keys stream past. A tile of a later pass resumes where the earlier passes left its rows, from
// their largest logits, sums and fp32 results, so that joining passes is one more step of the same
// online softmax. Results do not depend on the number of threads.
// Workspace: scratch for each thread; with several passes 8 bytes a row of q, and for bf16 an fp32
// copy of out.
void attention_forward(const ForwardOps& ops, const Context& context, const Plan& plan,
                       const ForwardArgs& args);

}  // namespace lace::cpu
