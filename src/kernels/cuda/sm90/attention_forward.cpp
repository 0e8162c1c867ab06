#include "kernels/cuda/sm90/attention_forward.h"

#include <algorithm>
#include <array>
#include <memory>
#include <numbers>
#include <span>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/sm90/clear_rows.h"
#include "kernels/cuda/sm90/forward_params.h"
#include "kernels/cuda/sm90/live_tiles.h"
#include "kernels/cuda/sm90/tensor_maps.h"
#include "kernels/cuda/softcap.h"

namespace lace::sm90 {
namespace {

// How much of a head's tensors a section may keep in L2, of 50 MB.
constexpr int64_t kSectionBytes = 32 << 20;
// The same where a section's partial results are read again: half of L2 is nearer than the other.
constexpr int64_t kJoinedSectionBytes = 20 << 20;
// Tiles of 128 keys that a tile of 128 queries sees, on average, from which 192 queries are better,
// and up to which two blocks a multiprocessor are.
constexpr int64_t kManyTiles = 6;
constexpr int64_t kFewTiles = 3;

// What tables of live tiles may take.
constexpr int64_t kMostLiveBytes = int64_t{4} << 30;

// What a head's tensors take, and may take together, where heads are worked on together: those of a
// batch element, or of a sequence, which has at most the positions of the plan.
int32_t section_for(const AttentionShape& s, const Plan& plan, const Work& work) {
  const int64_t group = s.heads / s.kv_heads, batch = s.sequences ? 1 : s.batch;
  int64_t bytes = std::min(s.k_len, plan.other_len) * (s.qk_dim + s.v_dim) * 2 / group;
  if (!work.several_passes)
    return section_of(work, batch, std::max<int64_t>(1, bytes), kSectionBytes);
  // Two sections are worked on at a time, and their partial results stay there.
  bytes = 2 * (bytes + std::min(s.q_len, plan.owner_len) * (s.qk_dim * 2 + s.v_dim * 4));
  return section_of(work, batch, bytes, kJoinedSectionBytes);
}

// Those of one element type, of each tile the narrowest first.
template <typename Element>
std::span<const ForwardKernel> kernels_of() {
  using enum ForwardTiling;
  static const std::array kernels = {
      make_forward_kernel<Element, 64, 64, kWide>(),
      make_forward_kernel<Element, 64, 64, kShort>(),
      make_forward_kernel<Element, 64, 64, kStandard>(),
      make_forward_kernel<Element, 64, 128, kStandard>(),
      make_forward_kernel<Element, 128, 128, kStandard>(),
      make_forward_kernel<Element, 256, 256, kDeep>(),
  };
  return kernels;
}

// The kernel for tiles of that size, or null if there is none for these head_dims and a softcap, if
// there is one.
const ForwardKernel* find_kernel(const AttentionShape& s, TileShape tile) {
  const auto kernels =
      s.dtype == DType::kFloat16 ? kernels_of<__half>() : kernels_of<__nv_bfloat16>();
  for (const ForwardKernel& kernel : kernels) {
    if (tile_of(kernel.tiling) != tile || !kernel.fits(s.qk_dim, s.v_dim)) continue;
    if (!s.softcap || caps(kernel.tiling)) return &kernel;
  }
  return nullptr;
}

}  // namespace

std::string unsupported(const AttentionShape& s) {
  if (s.dtype != DType::kBFloat16 && s.dtype != DType::kFloat16) {
    return concat("it computes bfloat16 and float16, got ", name(s.dtype));
  }
  if (s.qk_dim % 8 != 0 || s.v_dim % 8 != 0 || find_kernel(s, forward_tile(s)) == nullptr) {
    return concat("head_dim must be a multiple of 8 up to 256, got ", s.qk_dim, " and ", s.v_dim);
  }
  if (std::max(s.q_len, s.k_len) >= (int64_t{1} << 30)) return "sequences of 2^30 rows or more";
  if (!s.aligned) {
    return "q, k or v does not begin at a multiple of 16 bytes, or has a stride that is not a "
           "positive multiple of them";
  }
  if (!s.positive_scale) return "scale must be positive, and a normal float32";
  if (s.live_blocks) {
    const int64_t bytes = live_table_bytes(s);
    if (bytes > kMostLiveBytes) {
      return concat("tables of what is live of blocks of ", s.block_size, " may take ", bytes >> 20,
                    " MiB");
    }
  }
  if (s.sequences && (s.q_len == 0 || s.k_len == 0)) return "sequences without rows of q or of k";
  return {};
}

TileShape forward_tile(const AttentionShape& s) {
  constexpr TileShape kStandard = tile_of(ForwardTiling::kStandard);
  return find_kernel(s, kStandard) != nullptr ? kStandard : tile_of(ForwardTiling::kDeep);
}

TileShape best_forward_tile(const AttentionShape& s, const Plan& plan) {
  constexpr TileShape kStandard = tile_of(ForwardTiling::kStandard);
  constexpr TileShape kWide = tile_of(ForwardTiling::kWide);
  constexpr TileShape kShort = tile_of(ForwardTiling::kShort);
  if (find_kernel(s, kWide) == nullptr) return forward_tile(s);
  // Of a tile that has several blocks more is computed than is live.
  if (s.live_blocks) return s.block_size <= kShort.others ? kShort : kStandard;
  if (plan.tile.others < kStandard.others) return plan.tile;
  int64_t tiles = 0, full_tiles = 0, pairs = 0;
  for (const HeadGroup& group : plan.groups) {
    for (int32_t p = group.pass_begin; p < group.pass_end; ++p) {
      const Pass& pass = plan.passes[static_cast<size_t>(p)];
      tiles += (pass.tile_end - pass.tile_begin) * group.heads;
      full_tiles += (plan.owner_len + plan.tile.owners - 1) / plan.tile.owners * group.heads;
      pairs += pass.computed_pairs * group.heads;
    }
  }
  // Tiles that end with blocks of 128, say, leave a consumer idle.
  const bool fills = plan.tile.owners <= kStandard.owners || 8 * tiles <= 9 * full_tiles;
  const bool wide = fills && pairs > kManyTiles * tiles * plan.tile.owners * 128;
  if (wide) return kWide;
  return pairs <= kFewTiles * tiles * 128 * 128 ? kShort : kStandard;
}

void forward(const Context& context, const Plan& plan, const ForwardArgs& args) {
  const AttentionShape& s = args.shape;
  if (s.batch == 0 || s.heads == 0) return;
  const auto stream = static_cast<cudaStream_t>(context.stream);
  const std::shared_ptr<const cuda::UploadedPlan> on_device = cuda::upload(plan, stream);
  const UploadedWork& uploaded =
      uploaded_work(*on_device, plan, 1, stream, s.live_blocks && heads_apart(args.blocks));
  const Work& work = uploaded.work;
  const ForwardKernel* kernel = find_kernel(s, {work.owner_rows, work.other_rows});
  LACE_CHECK(kernel != nullptr, "[attention] cuda_sm90 has no forward kernel for tiles of ",
             work.owner_rows, " x ", work.other_rows, " with head_dim ", s.qk_dim, " and ", s.v_dim,
             s.softcap ? " and a softcap" : "");

  const int64_t batch = s.batch_in_memory();
  const size_t counter_bytes = (counter_count(work, s.batch) * 4 + 255) / 256 * 256;
  const size_t partial_bytes =
      work.several_passes
          ? static_cast<size_t>(batch * s.heads * s.q_len * kernel->v_dim) * sizeof(float)
          : 0;
  const Workspace workspace = context.allocate(counter_bytes + partial_bytes);
  auto* counters = reinterpret_cast<int32_t*>(workspace.get());

  const auto params = std::make_unique<ForwardParams>();
  const auto make = [&](const Tensor4& tensor, int64_t dim, int64_t heads, bool owners,
                        CUtensorMap(&maps)[kMaps]) {
    return make_maps({tensor, s.dtype, dim, owners ? s.q_len : s.k_len, heads, batch,
                      !s.sequences ? 0
                      : owners     ? plan.owner_len
                                   : plan.other_len},
                     owners ? work.owner_rows : work.other_rows,
                     owners ? work.owner_boxes : work.other_boxes,
                     owners ? work.owner_stretches : work.other_stretches, maps);
  };
  params->q_steps = make(args.q, s.qk_dim, s.heads, true, params->q);
  params->k_steps = make(args.k, s.qk_dim, s.kv_heads, false, params->k);
  params->v_steps = make(args.v, s.v_dim, s.kv_heads, false, params->v);
  const int32_t section = section_for(s, plan, work);
  Workspace items, live;
  const WorkTables tables =
      s.live_blocks ? live_tables(context, *on_device, uploaded, plan, args.blocks, live)
                    : uploaded.tables;
  params->queue = s.sequences ? sequence_queue(context, *on_device, uploaded, tables, plan, s,
                                               args.sequences, false, section, counters, items)
                              : item_queue(*on_device, uploaded, tables, plan, batch, section,
                                           counters, stream);
  if (s.sequences) {
    const Tensor4 lse{args.lse, s.heads * s.q_len, s.q_len, 1};
    constexpr uint32_t kNegativeInfinity = 0xff800000;
    clear_rows(context, s, args.sequences, {false, static_cast<int32_t>(plan.owner_len)},
               {{args.out, s.heads, s.q_len, static_cast<int32_t>(s.v_dim)},
                {lse, s.heads, s.q_len, 1, 4, kNegativeInfinity}});
  }
  params->out = args.out.data;
  params->lse = static_cast<float*>(args.lse);
  params->sinks = args.sinks;
  params->partial = reinterpret_cast<float*>(workspace.get() + counter_bytes);
  params->out_batch_stride = args.out.batch_stride;
  params->out_head_stride = args.out.head_stride;
  params->out_row_stride = args.out.row_stride;
  if (s.softcap) params->cap_scale = cuda::cap_scale(args.scale, args.softcap);
  params->scale_log2 =
      static_cast<float>((s.softcap ? args.softcap : args.scale) * std::numbers::log2e);
  params->heads_per_kv = static_cast<int32_t>(s.heads / s.kv_heads);
  params->q_len = static_cast<int32_t>(s.q_len);
  params->v_dim = static_cast<int32_t>(s.v_dim);
  LACE_CUDA(cudaMemsetAsync(counters, 0, counter_bytes, stream));
  kernel->launch(*params, grid_of(params->queue, kernel->blocks), stream);
}

}  // namespace lace::sm90
