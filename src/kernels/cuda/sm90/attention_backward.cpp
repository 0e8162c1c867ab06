#include "kernels/cuda/sm90/attention_backward.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <memory>
#include <numbers>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/sm90/backward_params.h"
#include "kernels/cuda/sm90/clear_rows.h"
#include "kernels/cuda/sm90/live_tiles.h"
#include "kernels/cuda/sm90/tensor_maps.h"
#include "kernels/cuda/softcap.h"

namespace lace::sm90 {
namespace {

// How much of the tensors of some heads a section, or an item, may pass over in L2, of 50 MB.
constexpr int64_t kSectionBytes = 32 << 20;

// Up to which whole sums of dq, dk and dv are kept where there are several passes.
constexpr int64_t kMostSumsBytes = 700'000'000;

// Tiles of others that one query head's item has on average, up to which dq is computed on its own.
constexpr int64_t kDqAloneUpTo = 2;

// The kernels of one width for calls with a softcap or without, by BackwardMode; without a tile
// those that there are not.
using Kernels = std::array<BackwardKernel, cuda::kBackwardModes>;

template <typename Element, int kDim, bool kCaps, BackwardMode... kModes>
Kernels kernels_of_width() {
  Kernels kernels{};
  ((kernels[static_cast<size_t>(kModes)] = make_backward_kernel<Element, kDim, kModes, kCaps>()),
   ...);
  return kernels;
}

const BackwardKernel& kernel_of(const Kernels& kernels, BackwardMode mode) {
  return kernels[static_cast<size_t>(mode)];
}

template <typename Element>
const Kernels& kernels_for(const AttentionShape& s) {
  using enum BackwardMode;
  static const Kernels any = kernels_of_width<Element, 256, true, kQueries, kDkAlone, kDvAlone>();
  static const std::array plain{
      kernels_of_width<Element, 64, false, kKeys, kKeysAlone, kQueries>(),
      kernels_of_width<Element, 128, false, kKeys, kKeysAlone, kQueries>(), any};
  static const std::array capped{kernels_of_width<Element, 64, true, kKeysAlone, kQueries>(),
                                 kernels_of_width<Element, 128, true, kKeysAlone, kQueries>(), any};
  for (const Kernels& kernels : s.softcap ? capped : plain) {
    if (std::max(s.qk_dim, s.v_dim) <= kernel_of(kernels, kQueries).dim) return kernels;
  }
  throw Error(concat("[attention] cuda_sm90 has no backward kernel for head_dim ", s.qk_dim,
                     " and ", s.v_dim));
}
const Kernels& kernels_for(const AttentionShape& s) {
  return s.dtype == DType::kFloat16 ? kernels_for<__half>(s) : kernels_for<__nv_bfloat16>(s);
}
// Whether dk and dv are computed apart, as their sums do not fit into registers together.
bool splits(const Kernels& kernels) {
  return kernel_of(kernels, BackwardMode::kKeysAlone).launch == nullptr;
}

// One launch over a plan: its work, its parameters, its workspace.
struct Launch {
  const Context& context;
  const BackwardArgs& args;
  const BackwardKernel& kernel;
  const Plan& plan;
  const cuda::UploadedPlan& on_device;
  const UploadedWork& uploaded;
  cudaStream_t stream;
  std::unique_ptr<BackwardParams> params = std::make_unique<BackwardParams>();
  bool by_keys = true;  // owners are keys
  Workspace counters{}, items{}, live{};

  const AttentionShape& shape() const { return args.shape; }

  void make_owner_maps(const Tensor4& x0, const Tensor4& x1, int64_t rows, int64_t heads) {
    params->x0_steps = make(x0, shape().qk_dim, rows, heads, true, params->x0);
    params->x1_steps = make(x1, shape().v_dim, rows, heads, true, params->x1);
  }
  void make_other_maps(const Tensor4& y0, const Tensor4& y1, int64_t rows, int64_t heads) {
    params->y0_steps = make(y0, shape().qk_dim, rows, heads, false, params->y0);
    params->y1_steps = make(y1, shape().v_dim, rows, heads, false, params->y1);
  }

  void set_common(const RowStatistics* statistics, int64_t bytes_of_head) {
    const Work& work = uploaded.work;
    const size_t bytes = counter_count(work, shape().batch) * sizeof(int32_t);
    counters = context.allocate(bytes);
    LACE_CUDA(cudaMemsetAsync(counters.get(), 0, bytes, stream));
    auto* zeros = reinterpret_cast<int32_t*>(counters.get());
    const int64_t batch = shape().sequences ? 1 : shape().batch;
    const int32_t section = section_of(work, batch, bytes_of_head, kSectionBytes);
    const WorkTables tables =
        shape().live_blocks ? live_tables(context, on_device, uploaded, plan, args.blocks, live)
                            : uploaded.tables;
    params->queue =
        shape().sequences
            ? sequence_queue(context, on_device, uploaded, tables, plan, shape(), args.sequences,
                             by_keys, section, zeros, items)
            : item_queue(on_device, uploaded, tables, plan, batch, section, zeros, stream);
    params->statistics = statistics;
    params->scale = static_cast<float>(args.scale);
    if (shape().softcap) params->cap_scale = cuda::cap_scale(args.scale, args.softcap);
    params->scale_log2 =
        static_cast<float>((shape().softcap ? args.softcap : args.scale) * std::numbers::log2e);
    params->heads = static_cast<int32_t>(shape().heads);
    params->heads_per_kv = static_cast<int32_t>(shape().heads / shape().kv_heads);
    params->members = work.members;
    params->q_len = static_cast<int32_t>(shape().q_len);
  }

  void run() const {
    const TileShape tile{uploaded.work.owner_rows, uploaded.work.other_rows};
    LACE_CHECK(tile == kernel.tile, "[attention] cuda_sm90 runs backward in tiles of ",
               kernel.tile.owners, " x ", kernel.tile.others, ", got a plan for ", tile.owners,
               " x ", tile.others);
    kernel.launch(*params, grid_of(params->queue), stream);
  }

 private:
  MapSteps make(const Tensor4& tensor, int64_t dim, int64_t rows, int64_t heads, bool owners,
                CUtensorMap (&maps)[kMaps]) const {
    const Work& work = uploaded.work;
    const AttentionShape& s = shape();
    const int64_t positions = !s.sequences ? 0 : owners ? plan.owner_len : plan.other_len;
    return make_maps({tensor, s.dtype, dim, rows, heads, s.batch_in_memory(), positions},
                     owners ? kernel.tile.owners : kernel.tile.others,
                     owners ? work.owner_boxes : work.other_boxes,
                     owners ? work.owner_stretches : work.other_stretches, maps);
  }
};

Gradient gradient_of(const Tensor4& tensor, int64_t dim) {
  Gradient gradient;
  gradient.result = cuda::rows_of(tensor);
  gradient.dim = static_cast<int32_t>(dim);
  return gradient;
}

template <typename Element>
struct Backward {
  const Context& context;
  const Plan& plan;
  const Plan& transposed;
  const BackwardArgs& args;
  const AttentionShape& shape = args.shape;
  cudaStream_t stream = static_cast<cudaStream_t>(context.stream);
  const Kernels& kernels = kernels_for(args.shape);
  int64_t dim = kernel_of(kernels, BackwardMode::kQueries).dim;  // of sums
  int64_t batch = shape.batch_in_memory();
  Workspace statistics{};

  // Where sums lie: beside the result, or apart from it, which is then rounded from all of them.
  // Apart they are stored once, or cleared here and added to.
  enum class Apart { kNo, kYes, kAddedTo };
  // Room for what passes leave of `gradient` of `heads` heads: whole sums, or the low halves, and
  // the high ones if they do not fit into the result, or shall lie apart.
  Workspace allocate_sums(Gradient& gradient, int64_t heads, int64_t rows, bool whole,
                          Apart how) const {
    const int64_t elements = batch * heads * rows * dim;
    // Rows of no sequence are rounded too.
    const bool clear = how == Apart::kAddedTo || (how == Apart::kYes && shape.sequences);
    const bool apart = how != Apart::kNo || gradient.dim != dim;
    const size_t bytes = static_cast<size_t>(elements) * (whole || apart ? 4 : 2);
    Workspace sums = context.allocate(bytes);
    if (clear) LACE_CUDA(cudaMemsetAsync(sums.get(), 0, bytes, stream));
    if (whole) {
      gradient.sums = reinterpret_cast<float*>(sums.get());
      return sums;
    }
    const auto place = [&](int64_t offset) -> StridedRows {
      return {reinterpret_cast<uint16_t*>(sums.get()) + offset, heads * rows * dim, rows * dim, dim,
              true};
    };
    gradient.low = place(0);
    gradient.high = apart ? place(elements) : gradient.result;
    return sums;
  }
  const RowStatistics* row_statistics() const {
    return reinterpret_cast<const RowStatistics*>(statistics.get());
  }

  void run() {
    statistics = context.allocate(static_cast<size_t>(batch * shape.heads * shape.q_len) *
                                  sizeof(RowStatistics));
    if (shape.sequences) {
      clear_rows(context, shape, args.sequences, {true, static_cast<int32_t>(plan.other_len)},
                 {{args.dk, shape.kv_heads, shape.k_len, static_cast<int32_t>(shape.qk_dim)},
                  {args.dv, shape.kv_heads, shape.k_len, static_cast<int32_t>(shape.v_dim)}});
    }
    Gradient dq = gradient_of(args.dq, shape.qk_dim);
    const auto on_device = cuda::upload(transposed, stream);
    const UploadedWork& keys = work_of(*on_device, transposed, shape.heads / shape.kv_heads);
    if (splits(kernels)) {
      run_statistics(nullptr);
      run_keys(*on_device, keys, BackwardMode::kDvAlone, {});
      run_keys(*on_device, keys, BackwardMode::kDkAlone, {});
      return run_queries();
    }
    if (keys.work.sole_others && !shape.softcap) {
      run_statistics(nullptr);
      // A query without keys is in no tile.
      if (shape.sequences || shape.live_blocks) clear_dq(nullptr);
      return run_keys(*on_device, keys, BackwardMode::kKeys, dq);
    }
    if (context.deterministic || shape.softcap || saves_memory(keys.work) || is_short(keys.work)) {
      run_statistics(nullptr);
      run_keys(*on_device, keys, BackwardMode::kKeysAlone, {});
      return run_queries();
    }
    const Workspace sums = context.allocate_floats(batch * shape.heads * shape.q_len * dim);
    dq.sums = reinterpret_cast<float*>(sums.get());
    run_statistics(dq.sums);
    run_keys(*on_device, passes_over_much(keys.work) ? work_of(*on_device, transposed, 1) : keys,
             BackwardMode::kKeys, dq);
    round(dq, static_cast<float>(args.scale), shape.heads, shape.q_len, 1,
          static_cast<int32_t>(dim) / kDqPlane);
  }

  // Where each head has a mask of its own, its tiles are apart.
  const UploadedWork& work_of(const cuda::UploadedPlan& on_device, const Plan& of,
                              int64_t heads_per_item) const {
    const bool apart = shape.live_blocks && heads_apart(args.blocks);
    return uploaded_work(on_device, of, apart ? 1 : heads_per_item, stream, apart);
  }

  // The result of `gradient`, for `heads` heads of `members` heads of its sums.
  void round(const Gradient& gradient, float scale, int64_t heads, int64_t rows, int32_t members,
             int32_t planes) const {
    const cuda::SumRows sums{gradient.sums, static_cast<const uint16_t*>(gradient.high.data),
                             static_cast<const uint16_t*>(gradient.low.data),
                             static_cast<int32_t>(dim), planes};
    cuda::launch_round<Element>({batch, heads, rows, gradient.dim}, sums, members, scale,
                                gradient.result, stream);
  }

  void run_statistics(float* sums) const {
    cuda::launch_statistics<Element>(
        {batch, shape.heads, shape.q_len, static_cast<int32_t>(shape.v_dim)},
        cuda::rows_of(args.out), cuda::rows_of(args.dout), cuda::lse_rows(args),
        reinterpret_cast<RowStatistics*>(statistics.get()), sums, static_cast<int32_t>(dim),
        stream);
  }

  // Whether items are so short that clearing, adding and rounding sums of dq takes longer than
  // computing the scores twice.
  bool is_short(const Work& work) const {
    return dim == 64 && shape.q_len == shape.k_len && !work.several_passes &&
           work.tiles_of_others <= kDqAloneUpTo * work.items;
  }

  // Whether whole sums, of dq and those that passes leave of dk and dv, would take too much.
  bool saves_memory(const Work& work) const {
    const int64_t rows = batch * (shape.heads * shape.q_len + 2 * shape.kv_heads * shape.k_len);
    return work.several_passes && rows * dim * 4 > kMostSumsBytes;
  }

  // Bytes of a query head's row that KEYS reads, and adds to.
  int64_t row_bytes() const { return (shape.qk_dim + shape.v_dim) * 2 + 4 * dim; }

  // Whether L2 has no room for what an item of all query heads of a key head passes over: its rows
  // of dq are then gone when the next key tile adds to them. An item of one query head is better,
  // although it adds its dk and dv in global memory.
  bool passes_over_much(const Work& work) const {
    const int64_t rows = int64_t{work.members} * work.longest * work.other_rows;
    return work.members > 1 && !work.several_passes && rows * row_bytes() > kSectionBytes;
  }

  // The gradients that `mode` computes by keys: dk, dv, or both.
  void run_keys(const cuda::UploadedPlan& on_device, const UploadedWork& uploaded,
                BackwardMode mode, const Gradient& dq) const {
    const int64_t heads_per_kv = shape.heads / shape.kv_heads;
    const Work& work = uploaded.work;
    // Query heads of a key head whose items are apart: each has sums of its own. Where dq has no
    // order either, and nobody joins them, all add to the same.
    const bool only_sums = work.members != heads_per_kv;
    const bool shares_sums = only_sums && dq.sums != nullptr && !work.several_passes;
    assert(mode != BackwardMode::kKeys || !shape.softcap);
    Launch launch{context, args, kernel_of(kernels, mode), transposed, on_device, uploaded, stream};
    BackwardParams& params = *launch.params;
    const bool has_dk = mode != BackwardMode::kDvAlone, has_dv = mode != BackwardMode::kDkAlone;
    launch.make_owner_maps(args.k, args.v, shape.k_len, shape.kv_heads);
    launch.make_other_maps(args.q, args.dout, shape.q_len, shape.heads);
    launch.set_common(row_statistics(),
                      work.members * std::min(shape.q_len, transposed.other_len) * row_bytes());
    params.owner_len = static_cast<int32_t>(shape.k_len);
    params.dq = dq;
    params.d0 = gradient_of(args.dk, shape.qk_dim);
    params.d1 = gradient_of(args.dv, shape.v_dim);
    params.only_sums = only_sums;
    params.shares_sums = shares_sums;
    Workspace dk_sums, dv_sums;
    if (only_sums || work.several_passes) {
      const auto heads = shares_sums ? shape.kv_heads : static_cast<int64_t>(work.heads.size());
      const bool whole = mode == BackwardMode::kKeys;
      const Apart apart = shares_sums ? Apart::kAddedTo : only_sums ? Apart::kYes : Apart::kNo;
      if (has_dk) dk_sums = allocate_sums(params.d0, heads, shape.k_len, whole, apart);
      if (has_dv) dv_sums = allocate_sums(params.d1, heads, shape.k_len, whole, apart);
    }
    launch.run();
    if (!only_sums) return;
    const auto round_sums = [&](const Gradient& gradient, float scale) {
      round(gradient, scale, shape.kv_heads, shape.k_len, shares_sums ? 1 : params.heads_per_kv, 1);
    };
    if (has_dk) round_sums(params.d0, params.scale);
    if (has_dv) round_sums(params.d1, 1);
  }

  // Rows of dq that no sequence has; null: all.
  void clear_dq(const Sequence* sequences) const {
    clear_rows(context, shape, sequences, {false, static_cast<int32_t>(plan.owner_len)},
               {{args.dq, shape.heads, shape.q_len, static_cast<int32_t>(shape.qk_dim)}});
  }

  void run_queries() const {
    if (shape.sequences) clear_dq(args.sequences);
    const auto on_device = cuda::upload(plan, stream);
    const UploadedWork& uploaded = work_of(*on_device, plan, 1);
    const Work& work = uploaded.work;
    Launch launch{context,  args,  kernel_of(kernels, BackwardMode::kQueries), plan, *on_device,
                  uploaded, stream};
    launch.by_keys = false;
    BackwardParams& params = *launch.params;
    launch.make_owner_maps(args.q, args.dout, shape.q_len, shape.heads);
    launch.make_other_maps(args.k, args.v, shape.k_len, shape.kv_heads);
    const int64_t group = shape.heads / shape.kv_heads;
    const int64_t row_bytes = (shape.qk_dim + shape.v_dim) * 2;
    launch.set_common(row_statistics(), std::min(shape.k_len, plan.other_len) * row_bytes / group);
    params.owner_len = static_cast<int32_t>(shape.q_len);
    params.d0 = gradient_of(args.dq, shape.qk_dim);
    Workspace sums;
    if (work.several_passes)
      sums = allocate_sums(params.d0, shape.heads, shape.q_len, false, Apart::kNo);
    launch.run();
  }
};

}  // namespace

TileShape backward_tile(const AttentionShape& shape) {
  const Kernels& kernels = kernels_for(shape);
  return kernel_of(kernels, splits(kernels) ? BackwardMode::kDkAlone : BackwardMode::kKeysAlone)
      .tile;
}

void backward(const Context& context, const Plan& plan, const Plan& transposed,
              const BackwardArgs& args) {
  if (args.shape.batch == 0 || args.shape.heads == 0) return;
  if (args.shape.dtype == DType::kFloat16) {
    Backward<__half>{context, plan, transposed, args}.run();
  } else {
    Backward<__nv_bfloat16>{context, plan, transposed, args}.run();
  }
}

}  // namespace lace::sm90
