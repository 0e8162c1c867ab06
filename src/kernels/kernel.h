#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/context.h"
#include "core/dtype.h"
#include "plan/plan.h"

namespace lace {

enum class Device { kCpu, kCuda };

// Positions [begin, end) that there are, of which p lies in row p + row of a tensor.
struct Extent {
  int32_t begin = 0, end = 0, row = 0;
};

// A sequence of a batch. Where a call has them, its plan is one of the same number of owners and
// others, whose rows are positions: each sequence takes of it what lies within its own extents, so
// that one plan serves all of them, and all shorter ones.
struct Sequence {
  Extent q, k;
};

// Which of the plan's pairs count: those of positions in live blocks. In the device's memory, so
// that nobody has to wait for what it holds.
struct LiveBlocks {
  const bool* live = nullptr;  // [heads, blocks, blocks], queries by keys; null: all pairs count
  int32_t heads = 0;           // of the queries, or 1
  int32_t blocks = 0;          // beyond them nothing is live
  int32_t size = 0;            // positions in one, at most 2^30
  int32_t first_query = 0;     // added to a query's place in the plan: its position
};

// What is asked of a kernel, apart from the plan.
struct AttentionShape {
  Device device = Device::kCpu;
  DType dtype = DType::kFloat32;
  int64_t batch = 0;
  int64_t heads = 0;  // a multiple of kv_heads; query head h reads key head h / (heads / kv_heads)
  int64_t kv_heads = 0;
  int64_t q_len = 0;           // rows of q
  int64_t k_len = 0;           // rows of k; >= q_len unless there are sequences
  int64_t qk_dim = 0;          // head_dim of q and k
  int64_t v_dim = 0;           // head_dim of v and out
  bool aligned = true;         // q, k and v are as is_aligned() tells
  bool positive_scale = true;  // as is_positive() tells
  bool sequences = false;      // `sequences` of the arguments is there
  bool packed = false;         // they lie one behind another: tensors have a batch of 1, stride 0
  bool softcap = false;        // `softcap` of the arguments is there
  bool live_blocks = false;    // `blocks` of the arguments is there
  int64_t block_size = 0;      // positions in one of `blocks`
  int64_t mask_heads = 0;      // how many masks `blocks` has: `heads`, or 1

  // How many [heads, rows] there are in memory, and which of them a batch element has.
  int64_t batch_in_memory() const { return packed ? 1 : batch; }
  int64_t in_memory(int64_t element) const { return packed ? 0 : element; }
  // The place of a query's row in lse.
  int64_t lse_index(int64_t element, int64_t head, int64_t row) const {
    return (in_memory(element) * heads + head) * q_len + row;
  }
};

// Whether `scale` is positive as kernels see it that multiply by it in float32: a product with a
// dead pair's −∞ must stay −∞, so numbers that are not normal do not count.
constexpr bool is_positive(double scale) { return scale >= 0x1p-126; }

// A tensor [batch, heads, rows, head_dim] of any strides (in elements) but the innermost, which is
// 1. A stride may be negative or 0 for inputs.
struct Tensor4 {
  void* data = nullptr;
  int64_t batch_stride = 0;
  int64_t head_stride = 0;
  int64_t row_stride = 0;
};

// Whether a tensor of these sizes begins at a multiple of 16 bytes, with strides that are positive
// multiples of 16 bytes wherever they count.
bool is_aligned(const Tensor4& tensor, DType dtype, int64_t batch, int64_t heads, int64_t rows);

// out = softmax(logits, kept to the plan's pairs) v, and its log-sum-exp
//   logits = scale · q kᵀ; where shape.softcap, softcap · tanh(scale · q kᵀ / softcap)
//   q    [batch, heads,    q_len, qk_dim]
//   k    [batch, kv_heads, k_len, qk_dim]
//   v    [batch, kv_heads, k_len, v_dim]
//   out  [batch, heads,    q_len, v_dim]
//   lse  [batch, heads,    q_len] contiguous, natural log, −inf for a row without keys (whose out
//        is 0); float64 where dtype is, else float32
//   sinks  [heads], float32: one more logit of each row, with a value of 0; null: none. Only for
//        kernels that join them (Kernel::joins_sinks)
//   sequences  [batch], where k and q are; null: everywhere, the queries the last of the keys. Rows
//        of no sequence are not read; their out is 0, their lse −∞: a kernel that does not write
//        them (Kernel::clears_rows) finds that there. No two sequences share a row
struct ForwardArgs {
  AttentionShape shape;
  const Sequence* sequences = nullptr;
  double scale = 1;
  double softcap = 0;
  LiveBlocks blocks;
  Tensor4 q, k, v, out;
  void* lse = nullptr;
  const float* sinks = nullptr;
};

// Gradients of a loss with d loss / d out = dout and d loss / d lse = dlse. Every element of dq,
// dk, dv is written; but with sequences a kernel that does not clear rows (Kernel::clears_rows)
// finds zeros there, and those of rows of no sequence, or that see none, may stay so.
//   dout as out; dq, dk, dv as q, k, v in shape and dtype, of any strides but the innermost
//   dlse as lse; null: 0
//   delta as lse; null: not asked for. What every row takes from dout·v: dout·out − dlse (of rows
//        of no sequence anything)
struct BackwardArgs {
  AttentionShape shape;
  const Sequence* sequences = nullptr;
  double scale = 1;
  double softcap = 0;
  LiveBlocks blocks;
  Tensor4 q, k, v, out, dout, dq, dk, dv;
  const void* lse = nullptr;
  const void* dlse = nullptr;
  void* delta = nullptr;
};

// The tiles that a kernel wants its plans compiled for.
struct KernelTiles {
  TileShape forward;     // owners are queries
  TileShape transposed;  // owners are keys
};

struct Kernel {
  std::string_view name;  // as in LACE_KERNEL
  Device device;
  // Empty, or why this machine cannot run it ("the processor lacks avx512f").
  std::string (*unavailable)();
  // Empty, or why it does not compute this ("head_dim 520 is more than 512"), as filled() left it.
  std::string (*unsupported)(const AttentionShape&);
  KernelTiles (*tiles)(const AttentionShape&);
  // On a GPU enqueue on context.stream and return; on a CPU return when the results are there.
  // Arguments are valid: whoever calls has checked them. Where shape.aligned, so are out and dout,
  // and the gradients.
  void (*forward)(const Context&, const Plan& plan, const ForwardArgs&);
  void (*backward)(const Context&, const Plan& plan, const Plan& transposed, const BackwardArgs&);
  // The tiles that forward alone runs `plan`'s pattern fastest with, for a plan of tiles().forward;
  // and for a plan of those tiles, whether they still seem so. Null: tiles().forward.
  TileShape (*best_forward_tile)(const AttentionShape&, const Plan& plan) = nullptr;
  // The number that its head_dims must be multiples of. Null: 1.
  int64_t (*dim_multiple)(const AttentionShape&) = nullptr;
  // Whether forward takes `sinks`; else whoever calls joins them to its results.
  bool joins_sinks = false;
  // Whether with sequences it writes every row of its results, 0 (lse −∞) where none has it; else
  // whoever calls has done so before.
  bool clears_rows = false;
};

// `shape` as `kernel` takes it. This is where it is decided which kernel gets which head_dims: one
// that is not a multiple of the kernel's dim_multiple goes up to the next, and whoever calls fills
// q, k and v, and in backward out and dout, with zeros that far, which changes no product, and cuts
// the results. Tensors that are filled are aligned, too; whoever calls sees to it.
AttentionShape filled(const Kernel& kernel, const AttentionShape& shape);

// All kernels of this build, best first.
std::span<const Kernel> kernels();

// The first kernel of shape.device that is available and supports `shape`, filled(), or the one
// that the environment variable LACE_KERNEL names. Throws lace::Error with the reason if that one
// cannot run or if none can. passed_over, if not null: why better kernels of the device that this
// machine could run do not compute `shape`, a line "\n  names: reason" for each reason; empty if
// LACE_KERNEL names the kernel.
const Kernel& select_kernel(const AttentionShape& shape, std::string* passed_over = nullptr);

// The kernel of that name. Throws lace::Error listing all names if there is none.
const Kernel& find_kernel(std::string_view name);

// The names of the kernels for GPUs where the build is without CUDA; else none.
std::span<const std::string_view> kernels_without_cuda();

// The name of the kernel whose forward or backward was called last in this process, through
// kernels(), find_kernel() or select_kernel(); empty before the first. Thread-safe.
std::string_view last_kernel();

}  // namespace lace
