#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/tile.h"
#include "kernels/kernel.h"

namespace lace::cpu {

// What a batch of query rows brings to a tile of keys. Entries [0, batch.count) are set.
//   q [·][qk_dim], dout [·][v_dim] in the tensors' dtype;  dq [·][qk_dim] fp32, added to
//   neg_lse    −lse, or −inf for a row without keys
//   neg_delta  −scale · (Σ_d dout[d] · out[d] − dlse)
//   fresh      bit r: row r of dq is not set yet, and gets its first sum instead of adding to it
struct QueryRows {
  const void* q[kBatchOthers];
  const void* dout[kBatchOthers];
  float* dq[kBatchOthers];
  float neg_lse[kBatchOthers];
  float neg_delta[kBatchOthers];
  uint64_t fresh = 0;
};

// Rows that will be needed soon.
struct Prefetch {
  static constexpr int kMaxRows = 6 * kBatchOthers;
  int count = 0;
  const void* rows[kMaxRows];
  int bytes[kMaxRows];

  void add(const void* row, int row_bytes) {
    if (count == kMaxRows) return;
    rows[count] = row;
    bytes[count++] = row_bytes;
  }
};

// Memory of one thread, each array 64-byte aligned. kPairs: k, v, k_rows, ds, q and dout hold pairs
// of bf16 in place of two floats, where ds, q and dout pair neighbouring query rows, k_rows
// neighbouring keys.
struct BackwardScratch {
  float *k = nullptr, *v = nullptr;     // [dim][kTileOwners]
  float* k_rows = nullptr;              // [kTileOwners][qk_stride]
  float *dk = nullptr, *dv = nullptr;   // [dim][kTileOwners]
  float *p = nullptr, *ds = nullptr;    // [kBatchOthers][kTileOwners]
  float* slope = nullptr;               // capped: the same of 1 − T²
  uint32_t* p_pairs = nullptr;          // kPairs: [kBatchOthers / 2][kTileOwners]
  BFloat16* ds_rows = nullptr;          // kPairs: [kBatchOthers][kTileOwners]
  float *q = nullptr, *dout = nullptr;  // kWidened: [kBatchOthers][stride] rows as floats;
                                        // kPairs: [kBatchOthers / 2][stride]
  int qk_stride = 0, v_stride = 0;      // dims rounded up to 16
};

// A tile of keys.
struct KeyTile {
  int qk_dim = 0, v_dim = 0;
  int count = 0;        // lanes in use: highest + 1
  bool ragged = false;  // some lane has no row
  float scale = 1;
  bool capped = false;
  float softcap = 0, cap_scale = 0;  // cap_scale: scale / softcap
  BackwardScratch scratch;
  const void* k[kTileOwners];  // [·][qk_dim] in the tensors' dtype; null, which reads as 0, for a
                               // lane without a row, and where the scale is 0
  const void* v[kTileOwners];  // [·][v_dim]
};

// The arithmetic of backward for one instruction set and dtype. For the pairs of a tile of keys
// and a batch of queries (FlashAttention-2's backward, https://arxiv.org/abs/2307.08691):
//   P = exp(scale · q kᵀ − lse),  dS = P ∘ scale · (dout vᵀ − delta)
// or, where `capped`, with T = tanh(cap_scale · q kᵀ),
//   P = exp(softcap · T − lse),  dS = P ∘ (1 − T²) ∘ scale · (dout vᵀ − delta)
// and
//   dv += Pᵀ dout,  dk += dSᵀ q,  dq += dS k
// Lanes are keys, so that dk and dv stay packed in scratch while batches of queries stream past.
struct BackwardTypeOps {
  Operands operands;  // of q, k, v and dout
  // Packs k and v; dk and dv start as the fp32 rows dk, dv, or as zero if `dk` is null.
  void (*begin)(const KeyTile& tile, const float* const* dk, const float* const* dv);
  // One batch; prefetches `next` on the way.
  void (*batch)(const KeyTile& tile, const OtherBatch& batch, const QueryRows& rows,
                const Prefetch& next);
  // Writes dk and dv to rows of the tensors' dtype, or to fp32 rows.
  void (*end)(const KeyTile& tile, void* const* dk, void* const* dv);
  void (*end_fp32)(const KeyTile& tile, float* const* dk, float* const* dv);
  // Σ_d a[d] · b[d] of two rows of the tensors' dtype.
  float (*dot)(const void* a, const void* b, int dim);
  // out[d] = in[d], rounded to the tensors' dtype.
  void (*round)(const float* in, void* out, int dim);
};

// The code of an instruction set.
struct BackwardOps {
  BackwardTypeOps float32, bfloat16, float16;
};

extern const BackwardOps kBackwardAvx512;
extern const BackwardOps kBackwardAvx2;
extern const BackwardOps kBackwardPortable;
// bf16 with dot products of pairs.
extern const BackwardTypeOps kBackwardAvx512Bf16;

// Kernel::backward with the code of one instruction set, on `transposed` (owners are keys).
//
// Tiles of keys are tasks; all passes and heads are in flight at once. Bitwise the same for every
// number of threads: every row of dq, dk and dv is added to in one fixed order, that of the plan.
// Workspace: scratch for each thread; 4 bytes a row of q; for 16-bit dtypes an fp32 copy of dq,
// and with several passes of dk and dv.
// Preconditions: an owner is in one tile of a pass at most; head_dims are at most kMaxHeadDim, the
// plan's tiles of owners at most kTileOwners.
void attention_backward(const BackwardTypeOps& ops, const Context& context, const Plan& transposed,
                        const BackwardArgs& args);

}  // namespace lace::cpu
