#include <algorithm>

#include "kernels/elementwise/cuda/functions.h"
#include "kernels/elementwise/cuda/launch.h"
#include "kernels/elementwise/cuda/vectors.cuh"

namespace lace::cuda::elementwise {
namespace {

// The tables stand one below the other as one: tok, the position tables, sos. A block is one warp,
// with a window of that table's rows by 32 columns in shared memory, to which it adds a slab of the
// slots. Of each slot it loads 32 columns, if one of its rows is in the window; to a row that is
// not, it adds in a row of no use, which is faster than a branch. The slabs' windows then are added
// in order.
constexpr int kWindow = 255;
constexpr int kNoRow = kWindow;
constexpr int kColumns = 32;
constexpr int kMostKeys = 1 + kMaxPositionTables;
constexpr int kTables = kMostKeys + 1;
constexpr int kSlotsAtOnce = 16;  // whose loads are under way together
constexpr int kWarps = 7;         // of a multiprocessor, whose shared memory they fill

struct Tables {
  int count;
  int64_t rows;                // of all
  int64_t first[kTables + 1];  // row of each, and the end of the last
  float* data[kTables];
  bool add;
};

// kKeys: the tables that a slot may add to. R: of the residual stream.
template <int kKeys, typename R>
__global__ void __launch_bounds__(32)
    slab_kernel(const EmbeddingShape shape, const Tables tables, const R* __restrict__ grad,
                int64_t slots_of_slab, float* __restrict__ partials) {
  __shared__ float window[kWindow + 1][kColumns];
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kColumns + lane;
  const bool inside = column < shape.columns;
  const int64_t rows = tables.rows;
  const int64_t first_row = static_cast<int64_t>(blockIdx.z) * kWindow;
  for (int r = 0; r <= kWindow; r++) window[r][lane] = 0;

  const int64_t slots = shape.batch * shape.n;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * slots_of_slab;
  const int64_t end = begin + slots_of_slab < slots ? begin + slots_of_slab : slots;
  for (int64_t first = begin; first < end; first += 32) {
    // A lane finds the rows of one slot.
    int own[kKeys];
    const int64_t slot = first + lane, s = slot % shape.n;
    const auto in_window = [&](int64_t row) {
      return row >= first_row && row < first_row + kWindow ? static_cast<int>(row - first_row)
                                                           : kNoRow;
    };
#pragma unroll
    for (int k = 0; k < kKeys; k++) own[k] = kNoRow;
    if (slot < end && s == 0) own[0] = in_window(rows - 1);
    if (slot < end && s > 0) {
      own[0] = in_window(shape.tokens[slot - 1]);
#pragma unroll
      for (int k = 1; k < kKeys; k++) {
        if (k <= shape.parts) {
          own[k] = in_window(tables.first[k] + shape.indices[(k - 1) * shape.n + s - 1]);
        }
      }
    }
    bool any = false;
#pragma unroll
    for (int k = 0; k < kKeys; k++) any = any || own[k] != kNoRow;
    const unsigned hits = __ballot_sync(~0u, any);
    if (hits == 0) continue;
#pragma unroll
    for (int half = 0; half < 32; half += kSlotsAtOnce) {
      float g[kSlotsAtOnce];
#pragma unroll
      for (int i = 0; i < kSlotsAtOnce; i++) {
        const bool hit = (hits >> (half + i) & 1) != 0 && inside;
        g[i] = hit ? to_float(grad[(first + half + i) * shape.columns + column]) : 0.0f;
      }
#pragma unroll
      for (int i = 0; i < kSlotsAtOnce; i++) {
        int row[kKeys];
        float sums[kKeys];
#pragma unroll
        for (int k = 0; k < kKeys; k++) {
          row[k] = __shfl_sync(~0u, own[k], half + i);
          sums[k] = window[row[k]][lane];
        }
        // Of different tables, so different rows.
#pragma unroll
        for (int k = 0; k < kKeys; k++) window[row[k]][lane] = sums[k] + g[i];
      }
    }
  }
  if (!inside) return;
  float* to = partials + (static_cast<int64_t>(blockIdx.y) * rows + first_row) * shape.columns;
  const int of_window = static_cast<int>(rows - first_row < kWindow ? rows - first_row : kWindow);
#pragma unroll 8
  for (int r = 0; r < of_window; r++) to[r * shape.columns + column] = window[r][lane];
}

constexpr int kSumThreads = 256;

// Adds the slabs, a thread an element.
__global__ void __launch_bounds__(kSumThreads)
    sum_kernel(const float* __restrict__ partials, int64_t slabs, int64_t columns,
               const Tables tables) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;
  const int64_t size = tables.rows * columns;
  if (i >= size) return;
  float sum = 0;
#pragma unroll 8
  for (int64_t slab = 0; slab < slabs; slab++) sum += partials[slab * size + i];
#pragma unroll
  for (int t = 0; t < kTables; t++) {
    const int64_t begin = tables.first[t] * columns;
    if (t < tables.count && i >= begin && i < tables.first[t + 1] * columns) {
      float* to = tables.data[t] + (i - begin);
      *to = tables.add ? *to + sum : sum;
    }
  }
}

Tables tables_of(const EmbeddingGradArgs& args) {
  Tables tables = {args.shape.parts + 2, 0, {}, {}, args.add};
  int64_t row = 0;
  auto append = [&, t = 0](void* data, int64_t rows) mutable {
    tables.data[t] = static_cast<float*>(data);
    tables.first[t] = row;
    row += rows;
    tables.first[++t] = row;
  };
  append(args.tok, args.shape.vocab);
  for (int p = 0; p < args.shape.parts; p++) append(args.pos[p], args.shape.position_rows[p]);
  append(args.sos, 1);
  tables.rows = row;
  return tables;
}

}  // namespace

void embedding_grad(const Context& context, const EmbeddingGradArgs& args) {
  const EmbeddingShape& shape = args.shape;
  if (shape.columns == 0) return;
  const Tables tables = tables_of(args);
  const int64_t rows = tables.rows, slots = shape.batch * shape.n;
  const int64_t slices = cover(shape.columns, kColumns), windows = cover(rows, kWindow);
  const int64_t most = std::max<int64_t>(1, multiprocessors() * kWarps / (slices * windows));
  const int64_t slots_of_slab = cover(std::max<int64_t>(1, cover(slots, most)), 32) * 32;
  const int64_t slabs = std::max<int64_t>(1, cover(slots, slots_of_slab));
  const Workspace memory = context.allocate_floats(slabs * rows * shape.columns);
  auto* partials = reinterpret_cast<float*>(memory.get());
  const dim3 grid(static_cast<unsigned>(slices), static_cast<unsigned>(slabs),
                  static_cast<unsigned>(windows));
  with_residual(shape.residual, [&](auto residual) {
    using R = decltype(residual);
    const auto kernel = shape.parts <= 2 ? slab_kernel<3, R> : slab_kernel<kMostKeys, R>;
    kernel<<<grid, 32, 0, stream_of(context)>>>(shape, tables, static_cast<const R*>(args.grad),
                                                slots_of_slab, partials);
  });
  LACE_CUDA(cudaGetLastError());
  const auto blocks = static_cast<unsigned>(cover(rows * shape.columns, kSumThreads));
  sum_kernel<<<blocks, kSumThreads, 0, stream_of(context)>>>(partials, slabs, shape.columns,
                                                             tables);
  LACE_CUDA(cudaGetLastError());
}

}  // namespace lace::cuda::elementwise
