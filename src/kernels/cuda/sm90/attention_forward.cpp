#include "kernels/cuda/sm90/attention_forward.h"

#include <algorithm>
#include <memory>
#include <numbers>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/sm90/forward_params.h"
#include "kernels/cuda/sm90/tensor_maps.h"

namespace lace::sm90 {
namespace {

// How much of a head's tensors a section may keep in L2, of 50 MB.
constexpr int64_t kSectionBytes = 32 << 20;
// The same where a section's partial results are read again: half of L2 is nearer than the other.
constexpr int64_t kJoinedSectionBytes = 20 << 20;
// Tiles of keys of an item, on average, from which blocks take items as they finish.
constexpr int64_t kLongItem = 6;

std::string tensor_unsupported(const char* name, const Tensor4& t, int64_t batch, int64_t heads,
                               int64_t rows) {
  if (reinterpret_cast<uintptr_t>(t.data) % 16 != 0) {
    return concat(name, " does not start at a multiple of 16 bytes");
  }
  const auto bad = [](int64_t size, int64_t stride) {
    return size > 1 && (stride <= 0 || stride % 8 != 0 || stride >= (int64_t{1} << 38));
  };
  if (bad(batch, t.batch_stride) || bad(heads, t.head_stride) || bad(rows, t.row_stride)) {
    return concat("a stride of ", name, " is not a positive multiple of 8 elements");
  }
  return {};
}

// How many heads of the batch are worked on together: as many as L2 holds.
int32_t section_of(const AttentionShape& s, bool several_passes) {
  const int64_t group = s.heads / s.kv_heads;
  int64_t bytes = s.k_len * (s.qk_dim + s.v_dim) * 2;
  // Two sections are worked on at a time, and their partial results stay there.
  if (several_passes) bytes = 2 * (bytes + group * s.q_len * (s.qk_dim * 2 + s.v_dim * 4));
  const int64_t room = several_passes ? kJoinedSectionBytes : kSectionBytes;
  return static_cast<int32_t>(std::max<int64_t>(1, room / bytes) * group);
}

template <typename Element>
void launch(const AttentionShape& s, bool wide, const ForwardParams& params, int grid,
            cudaStream_t stream) {
  if (wide) {
    launch_forward<Element, 64, 64, 3>(params, grid, stream);
  } else if (s.qk_dim <= 64 && s.v_dim <= 64) {
    launch_forward<Element, 64, 64, 2>(params, grid, stream);
  } else if (s.qk_dim <= 64) {
    launch_forward<Element, 64, 128, 2>(params, grid, stream);
  } else {
    launch_forward<Element, 128, 128, 2>(params, grid, stream);
  }
}

// Whether three warpgroups of consumers fit.
bool may_be_wide(const AttentionShape& s) { return s.qk_dim <= 64 && s.v_dim <= 64; }

}  // namespace

std::string forward_unsupported(const AttentionShape& s) {
  if (s.dtype != DType::kBFloat16 && s.dtype != DType::kFloat16) {
    return concat("it computes bfloat16 and float16, got ", name(s.dtype));
  }
  if (s.qk_dim % 8 != 0 || s.v_dim % 8 != 0 || s.qk_dim > 128 || s.v_dim > 128) {
    return concat("head_dim must be a multiple of 8 up to 128, got ", s.qk_dim, " and ", s.v_dim);
  }
  if (std::max(s.q_len, s.k_len) >= (int64_t{1} << 30)) return "sequences of 2^30 rows or more";
  return {};
}

std::string forward_unsupported(const ForwardArgs& args) {
  const AttentionShape& s = args.shape;
  if (!(args.scale > 0)) return concat("scale must be positive, got ", args.scale);
  std::string reason = tensor_unsupported("q", args.q, s.batch, s.heads, s.q_len);
  if (reason.empty()) reason = tensor_unsupported("k", args.k, s.batch, s.kv_heads, s.k_len);
  if (reason.empty()) reason = tensor_unsupported("v", args.v, s.batch, s.kv_heads, s.k_len);
  if (reason.empty()) reason = tensor_unsupported("out", args.out, s.batch, s.heads, s.q_len);
  return reason;
}

TileShape forward_tile(const AttentionShape&) { return {128, 128}; }

TileShape forward_tile(const AttentionShape& s, const Plan& plan) {
  if (!may_be_wide(s)) return plan.tile;
  int64_t tiles = 0, pairs = 0;
  for (const HeadGroup& group : plan.groups) {
    for (int32_t p = group.pass_begin; p < group.pass_end; ++p) {
      const Pass& pass = plan.passes[static_cast<size_t>(p)];
      tiles += (pass.tile_end - pass.tile_begin) * group.heads;
      pairs += pass.computed_pairs * group.heads;
    }
  }
  return {pairs > kLongItem * tiles * 128 * 128 ? kOwnerRows : 128, 128};
}

void forward(const Context& context, const Plan& plan, const ForwardArgs& args) {
  const AttentionShape& s = args.shape;
  if (s.batch == 0 || s.heads == 0) return;
  const auto stream = static_cast<cudaStream_t>(context.stream);
  const std::shared_ptr<const cuda::UploadedPlan> on_device = cuda::upload(plan, stream);
  const UploadedWork& uploaded = uploaded_work(*on_device, plan, stream);
  const Work& work = uploaded.work;
  const bool wide = work.owner_rows > 128;
  LACE_CHECK(!wide || may_be_wide(s),
             "[attention] cuda_sm90 takes tiles of 192 queries up to head_dim 64, got ", s.qk_dim,
             " and ", s.v_dim);

  const int64_t batch_heads = s.batch * s.heads;
  const size_t counter_bytes = static_cast<size_t>((1 + batch_heads) * 4 + 255) / 256 * 256;
  const size_t partial_bytes =
      work.several_passes ? static_cast<size_t>(batch_heads * s.q_len * s.v_dim) * 4 : 0;
  const Workspace workspace = context.allocate(counter_bytes + partial_bytes);
  auto* counters = reinterpret_cast<int32_t*>(workspace.get());

  const auto params = std::make_unique<ForwardParams>();
  make_maps({args.q, s.dtype, s.qk_dim, s.q_len, s.heads, s.batch}, work.owner_rows,
            work.owner_boxes, work.owner_stretches, params->q);
  make_maps({args.k, s.dtype, s.qk_dim, s.k_len, s.kv_heads, s.batch}, kOtherRows, work.other_boxes,
            work.other_stretches, params->k);
  make_maps({args.v, s.dtype, s.v_dim, s.k_len, s.kv_heads, s.batch}, kOtherRows, work.other_boxes,
            work.other_stretches, params->v);
  params->work = uploaded.tables;
  params->out = args.out.data;
  params->lse = static_cast<float*>(args.lse);
  params->partial = reinterpret_cast<float*>(workspace.get() + counter_bytes);
  params->next_item = counters;
  params->done = counters + 1;
  params->out_batch_stride = args.out.batch_stride;
  params->out_head_stride = args.out.head_stride;
  params->out_row_stride = args.out.row_stride;
  params->scale_log2 = static_cast<float>(args.scale * std::numbers::log2e);
  params->inverse_scale_log2 = 1 / params->scale_log2;
  params->batch = static_cast<int32_t>(s.batch);
  params->heads = static_cast<int32_t>(s.heads);
  params->heads_per_kv = static_cast<int32_t>(s.heads / s.kv_heads);
  params->q_len = static_cast<int32_t>(s.q_len);
  params->k_len = static_cast<int32_t>(s.k_len);
  params->v_dim = static_cast<int32_t>(s.v_dim);
  params->items = static_cast<int32_t>(work.items * s.batch);
  params->section = section_of(s, work.several_passes);
  // Short items are known beforehand, so that what describes them is loaded beforehand.
  params->by_counter = work.tiles_of_others > kLongItem * work.items;

  int device = 0, multiprocessors = 0;
  LACE_CUDA(cudaGetDevice(&device));
  LACE_CUDA(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  const int grid = std::min(params->items, multiprocessors);
  LACE_CUDA(cudaMemsetAsync(counters, 0, counter_bytes, stream));
  if (s.dtype == DType::kFloat16) {
    launch<__half>(s, wide, *params, grid, stream);
  } else {
    launch<__nv_bfloat16>(s, wide, *params, grid, stream);
  }
}

}  // namespace lace::sm90
