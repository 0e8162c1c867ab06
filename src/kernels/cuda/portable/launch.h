#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "kernels/cuda/backward_rows.h"
#include "kernels/cuda/device_plan.h"
#include "kernels/cuda/pass_order.h"
#include "kernels/cuda/section_order.h"
#include "kernels/kernel.h"

namespace lace::cuda::portable {

constexpr float kLog2E = 1.4426950408889634f;

// Device pointers to the arrays of a PassOrder.
struct OrderTables {
  const OrderedTile* tiles = nullptr;
  const PassOrder::Group* groups = nullptr;
  const uint32_t* row_bits = nullptr;
  PassOrder::Group only;  // the group, if there is one
};

// The items of a launch, which does all passes of all heads of all batch elements.
struct BlockQueue {
  OrderTables order;
  SectionOrder sections;  // of heads · batch heads
  int heads = 0;
  // Where a pass joins what others left, else null: blocks take items in order from next_item, and
  // done [batch, heads] counts those that later passes wait for. All 0 at the start.
  int32_t *next_item = nullptr, *done = nullptr;
  __host__ __device__ bool joins() const { return next_item != nullptr; }
};

struct ForwardLaunch {
  DevicePlan plan;
  AttentionShape shape;
  const Sequence* sequences = nullptr;  // as in ForwardArgs
  BlockQueue queue;
  bool negative = false;  // logits are negated first
  bool capped = false;    // or become tanh(cap_scale · logit) first
  float cap_scale = 0;    // scale / softcap
  float scale = 0;        // |scale|, or softcap, · log2(e), > 0
  StridedRows q, k, v, out;
  // Batches in memory, as of all that follows.
  float* lse = nullptr;      // [batch, heads, q_len]
  float* partial = nullptr;  // [batch, heads, q_len, v_dim]: out so far; null with one pass only
};

// What a block has in shared memory: `stages` chunks of y0, y1 and dS of `changes` chunks. With two
// of these, dq of a chunk is added during the next one, and a chunk has one barrier less.
struct BackwardBuffers {
  int stages = 1, changes = 1;
};

// kKeys, kKeysAlone: owners are keys; x0 = k, x1 = v, y0 = q, y1 = dout, d0 = dk, d1 = dv, of the
// query heads kv · ratio + [member, member + members), which have the same tiles.
// kQueries: owners are queries; x0 = q, x1 = dout, y0 = k, y1 = v, d0 = dq; one member.
struct BackwardLaunch {
  DevicePlan plan;
  AttentionShape shape;
  const Sequence* sequences = nullptr;  // as in BackwardArgs
  BlockQueue queue;
  int member = 0, members = 1;
  bool first = false, last = false;  // of the launches that add to the same gradients
  BackwardBuffers buffers;
  bool capped = false;   // logits become tanh(cap_scale · logit) before scale_log2
  float cap_scale = 0;   // scale / softcap
  float scale = 0;       // of d0
  float scale_log2 = 0;  // scale, or softcap, · log2(e)
  StridedRows x0, x1, y0, y1, d0, d1;
  const RowStatistics* statistics = nullptr;  // [batch, heads, q_len]
  float *partial0 = nullptr,
        *partial1 = nullptr;  // d0, d1 so far, contiguous; null with one launch of one pass
  // kKeys: SumRows of dq / scale, [batch, heads, q_len, dq_width()].
  float* dq_sums = nullptr;
};

// Up to which head_dim there are kernels.
constexpr int kMaxDim = 256;

// The kernels of one dtype, chosen by head_dim: the smallest that has room for (qk_dim, v_dim).
struct Launchers {
  // The tiles that they take: no more owners, and any number of others, walked in chunks.
  KernelTiles (*tiles)(const AttentionShape&);
  void (*forward)(const ForwardLaunch&, cudaStream_t);
  // Of backward_rows.h.
  void (*statistics)(const RowsShape&, const StridedRows& out, const StridedRows& dout,
                     const LseRows& lse, RowStatistics*, float* sums, int32_t sums_dim,
                     cudaStream_t);
  void (*round)(const RowsShape&, const SumRows&, int32_t members, float scale,
                const StridedRows& result, cudaStream_t);
  void (*backward_keys)(BackwardLaunch, cudaStream_t);
  void (*backward_keys_alone)(BackwardLaunch, cudaStream_t);
  void (*backward_queries)(BackwardLaunch, cudaStream_t);
  // Columns of a row of dq_sums, or 0 if the current GPU has not room enough for kKeys.
  int (*dq_width)(const AttentionShape&);
};
// Bytes that a block of the current GPU may have for tiles.
int tile_memory();
// As if no GPU had more than `bytes`; 0: no such limit. For tests.
void limit_tile_memory(int bytes);
// Shared memory of a block beside its tiles, at most.
constexpr int kOtherMemory = 128;

extern const Launchers kBFloat16Launchers, kFloat16Launchers;

}  // namespace lace::cuda::portable
