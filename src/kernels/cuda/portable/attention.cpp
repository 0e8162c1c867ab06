#include "kernels/cuda/portable/attention.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/portable/launch.h"

namespace lace::cuda::portable {
namespace {

constexpr int64_t kMaxDim = 256;

// How much of the tensors of some heads a section may keep in L2.
constexpr int64_t kSectionBytes = 20 << 20;

// Others that an owner has on average, up to which dq is computed on its own: clearing, adding and
// rounding sums would take longer than computing the scores twice.
constexpr int64_t kFewOthers = 256;

bool is_large(const AttentionShape& shape) { return shape.qk_dim > 128 || shape.v_dim > 128; }

const Launchers& launchers(const AttentionShape& shape) {
  return shape.dtype == DType::kBFloat16 ? kBFloat16Launchers : kFloat16Launchers;
}

// Whether every row begins at a multiple of `bytes`.
bool is_aligned(const Tensor4& tensor, int64_t bytes) {
  const int64_t elements = bytes / 2;
  return reinterpret_cast<uintptr_t>(tensor.data) % static_cast<uintptr_t>(bytes) == 0 &&
         tensor.batch_stride % elements == 0 && tensor.head_stride % elements == 0 &&
         tensor.row_stride % elements == 0;
}

Rows rows_of(const Tensor4& tensor) {
  const bool near = std::abs(tensor.row_stride) < int64_t{1} << 30;
  return {tensor.data, tensor.batch_stride, tensor.head_stride, tensor.row_stride,
          near && is_aligned(tensor, 16)};
}

int pass_count(const Plan& plan) {
  int passes = 0;
  for (const HeadGroup& group : plan.groups) {
    passes = std::max(passes, group.pass_end - group.pass_begin);
  }
  return passes;
}

// The pass `index` of a group, or null.
const Pass* find_pass(const Plan& plan, const HeadGroup& group, int index) {
  return index < group.pass_end - group.pass_begin
             ? &plan.passes[static_cast<size_t>(group.pass_begin + index)]
             : nullptr;
}

// Pairs that the first tile of a pass computes; the passes put most work first.
int64_t pairs_of_first_tile(const Plan& plan, const Pass& pass) {
  if (pass.tile_begin == pass.tile_end) return 0;
  const OwnerTile& tile = plan.tiles[static_cast<size_t>(pass.tile_begin)];
  int64_t others = 0;
  for (int32_t r = tile.run_begin; r < tile.run_end; r++) {
    const Run& run = plan.runs[static_cast<size_t>(r)];
    others += run.tiles * run.others.size();
  }
  return others * tile.owners.size();
}

int multiprocessors() {
  int device = 0, count = 0;
  LACE_CUDA(cudaGetDevice(&device));
  LACE_CUDA(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// Sets what a launch for pass `launch.pass` works on, for `heads` heads of which each reads
// `bytes_of_head` while its tiles are worked on.
// A section is so large that a multiprocessor's share of it is more than twice its longest item,
// and all are of one size: else a long item stands alone at the end.
template <typename Launch>
void set_items(const Plan& plan, int64_t heads, int64_t bytes_of_head, Launch& launch) {
  int tiles = 0;
  int64_t longest = 0, pairs = 0;
  for (const HeadGroup& group : plan.groups) {
    const Pass* pass = find_pass(plan, group, launch.pass);
    if (pass == nullptr) continue;
    tiles = std::max(tiles, pass->tile_end - pass->tile_begin);
    longest = std::max(longest, pairs_of_first_tile(plan, *pass));
    pairs += group.heads * pass->computed_pairs;
  }
  const int64_t pairs_of_head = std::max<int64_t>(pairs / plan.heads, 1);
  const int64_t all = heads * launch.shape.batch;
  const int64_t least = 4 * longest * multiprocessors() / pairs_of_head + 1;
  const int64_t section =
      std::clamp(kSectionBytes / std::max<int64_t>(bytes_of_head, 1), std::min(least, all), all);
  const int64_t sections = (all + section - 1) / section;
  launch.space = {tiles, static_cast<int>(heads), static_cast<int>(launch.shape.batch),
                  static_cast<int>((all + sections - 1) / sections)};
  if (plan.groups.size() == 1) {
    const Pass* pass = find_pass(plan, plan.groups[0], launch.pass);
    launch.tile_begin = pass->tile_begin, launch.tile_end = pass->tile_end;
  }
}

// Others that are computed for an owner, on average.
int64_t others_of_owner(const Plan& plan) {
  int64_t pairs = 0;
  for (const HeadGroup& group : plan.groups) {
    for (int32_t p = group.pass_begin; p < group.pass_end; p++) {
      pairs += group.heads * plan.passes[static_cast<size_t>(p)].computed_pairs;
    }
  }
  return pairs / (plan.heads * plan.owner_len);
}

void check_tile(const Plan& plan, int32_t most) {
  LACE_CHECK(plan.tile.owners <= most, "[attention] cuda_portable takes tiles of at most ", most,
             " owners, got ", plan.tile.owners);
}

template <typename T>
T* pointer(const Workspace& workspace) {
  return reinterpret_cast<T*>(workspace.get());
}

Workspace allocate_floats(const Context& context, int64_t count) {
  return context.allocate(static_cast<size_t>(count) * sizeof(float));
}

// d0 (and d1) of every query head, or of every key head from all its query heads, which one launch
// does if they have the same tiles.
struct GradientRun {
  const Context& context;
  const Plan& plan;
  BackwardLaunch launch;
  void (*start)(BackwardLaunch, cudaStream_t);
  int64_t heads, bytes_of_head;

  void run(int members, int64_t floats0, int64_t floats1) {
    const int passes = pass_count(plan);
    launch.members = plan.groups.size() == 1 ? members : 1;
    const int launches = members / launch.members * passes;
    Workspace partial0, partial1;
    if (launches > 1) {
      partial0 = allocate_floats(context, floats0);
      partial1 = allocate_floats(context, floats1);
      launch.partial0 = pointer<float>(partial0);
      launch.partial1 = pointer<float>(partial1);
    }
    for (launch.member = 0; launch.member < members; launch.member += launch.members) {
      for (launch.pass = 0; launch.pass < passes; launch.pass++) {
        launch.first = launch.member == 0 && launch.pass == 0;
        launch.last = launch.member + launch.members == members && launch.pass == passes - 1;
        set_items(plan, heads, bytes_of_head, launch);
        start(launch, static_cast<cudaStream_t>(context.stream));
      }
    }
  }
};

struct Backward {
  const Context& context;
  const Plan& plan;
  const Plan& transposed;
  const BackwardArgs& args;
  const AttentionShape& shape = args.shape;
  const Launchers& run = launchers(args.shape);
  cudaStream_t stream = static_cast<cudaStream_t>(context.stream);
  int64_t rows = shape.batch * shape.heads * shape.q_len;
  int64_t ratio = shape.heads / shape.kv_heads;
  int64_t row_bytes = 2 * (shape.qk_dim + shape.v_dim);
  BackwardLaunch launch{};

  void compute() {
    const Workspace statistics =
        context.allocate(static_cast<size_t>(rows) * sizeof(RowStatistics));
    launch.shape = shape;
    launch.scale = static_cast<float>(args.scale);
    launch.scale_log2 = static_cast<float>(args.scale * std::numbers::log2e);
    launch.statistics = pointer<RowStatistics>(statistics);
    const int64_t width = run.sums_width(shape);
    const bool few = pass_count(transposed) == 1 && others_of_owner(transposed) <= kFewOthers;
    const bool alone = context.deterministic || width == 0 || few;
    Workspace sums;
    if (!alone) {
      sums = allocate_floats(context, rows * width);
      launch.dq_sums = pointer<float>(sums);
    }
    run.statistics(launch, rows_of(args.out), rows_of(args.dout),
                   static_cast<const float*>(args.lse), pointer<RowStatistics>(statistics), stream);
    compute_keys(alone ? run.backward_keys_alone : run.backward_keys);
    if (alone) {
      compute_queries();
    } else {
      run.round(launch, rows_of(args.dq), stream);
    }
  }

  void compute_keys(void (*start)(BackwardLaunch, cudaStream_t)) {
    const auto uploaded = upload(transposed, stream);
    launch.plan = uploaded->view();
    launch.x0 = rows_of(args.k);
    launch.x1 = rows_of(args.v);
    launch.y0 = rows_of(args.q);
    launch.y1 = rows_of(args.dout);
    launch.d0 = rows_of(args.dk);
    launch.d1 = rows_of(args.dv);
    const int64_t kv_rows = shape.batch * shape.kv_heads * shape.k_len;
    const int64_t bytes = shape.q_len * ratio * (row_bytes + 4 * shape.qk_dim);
    GradientRun{context, transposed, launch, start, shape.kv_heads, bytes}.run(
        static_cast<int>(ratio), kv_rows * shape.qk_dim, kv_rows * shape.v_dim);
  }

  void compute_queries() {
    const auto uploaded = upload(plan, stream);
    launch.plan = uploaded->view();
    launch.x0 = rows_of(args.q);
    launch.x1 = rows_of(args.dout);
    launch.y0 = rows_of(args.k);
    launch.y1 = rows_of(args.v);
    launch.d0 = rows_of(args.dq);
    GradientRun{context,     plan, launch, run.backward_queries,
                shape.heads, shape.k_len * row_bytes / ratio}
        .run(1, rows * shape.qk_dim, 0);
  }
};

}  // namespace

std::string unsupported(const AttentionShape& shape) {
  if (shape.dtype != DType::kBFloat16 && shape.dtype != DType::kFloat16) {
    return concat("dtype ", name(shape.dtype), " is neither bfloat16 nor float16");
  }
  for (const int64_t dim : {shape.qk_dim, shape.v_dim}) {
    if (dim % 8 != 0) return concat("head_dim ", dim, " is not a multiple of 8");
    if (dim > kMaxDim) return concat("head_dim ", dim, " is more than ", kMaxDim);
  }
  if (shape.k_len > INT32_MAX / 2) return concat("seq_len ", shape.k_len, " is too long");
  return "";
}

KernelTiles tiles(const AttentionShape& shape) {
  if (is_large(shape)) return {{64, 64}, {64, 64}};
  return {{128, 64}, {128, 64}};
}

void forward(const Context& context, const Plan& plan, const ForwardArgs& args) {
  check_tile(plan, tiles(args.shape).forward.owners);
  const AttentionShape& shape = args.shape;
  const auto stream = static_cast<cudaStream_t>(context.stream);
  const auto uploaded = upload(plan, stream);
  ForwardLaunch launch;
  launch.plan = uploaded->view();
  launch.shape = shape;
  launch.negative = args.scale < 0;
  // Far below what any logit shows, and no 0 · ∞ for the dead pairs.
  launch.scale = static_cast<float>(std::max(std::fabs(args.scale), 1e-30)) * kLog2E;
  launch.q = rows_of(args.q);
  launch.k = rows_of(args.k);
  launch.v = rows_of(args.v);
  launch.out = rows_of(args.out);
  launch.lse = static_cast<float*>(args.lse);
  const int passes = pass_count(plan);
  Workspace partial;
  if (passes > 1) {
    partial = allocate_floats(context, shape.batch * shape.heads * shape.q_len * shape.v_dim);
    launch.partial = pointer<float>(partial);
  }
  for (launch.pass = 0; launch.pass < passes; launch.pass++) {
    launch.last_pass = launch.pass == passes - 1;
    set_items(plan, shape.heads,
              shape.k_len * 2 * (shape.qk_dim + shape.v_dim) * shape.kv_heads / shape.heads,
              launch);
    launchers(shape).forward(launch, stream);
  }
}

void backward(const Context& context, const Plan& plan, const Plan& transposed,
              const BackwardArgs& args) {
  check_tile(plan, tiles(args.shape).forward.owners);
  check_tile(transposed, tiles(args.shape).transposed.owners);
  Backward{context, plan, transposed, args}.compute();
}

}  // namespace lace::cuda::portable
