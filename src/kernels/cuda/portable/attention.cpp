#include "kernels/cuda/portable/attention.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/portable/launch.h"

namespace lace::cuda::portable {
namespace {

constexpr int64_t kMaxDim = 256;
constexpr int64_t kMaxGrid = 65535;

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

Rows rows_of(const Tensor4& tensor, int64_t alignment) {
  return {tensor.data, tensor.batch_stride, tensor.head_stride, tensor.row_stride,
          is_aligned(tensor, alignment)};
}
Rows input(const Tensor4& tensor) { return rows_of(tensor, 16); }
Rows output(const Tensor4& tensor) { return rows_of(tensor, 4); }

int pass_count(const Plan& plan) {
  int passes = 0;
  for (const HeadGroup& group : plan.groups) {
    passes = std::max(passes, group.pass_end - group.pass_begin);
  }
  return passes;
}

// The most tiles of owners that a group has in its pass `pass`.
int tile_count(const Plan& plan, int pass) {
  int tiles = 0;
  for (const HeadGroup& group : plan.groups) {
    if (group.pass_begin + pass >= group.pass_end) continue;
    const Pass& which = plan.passes[static_cast<size_t>(group.pass_begin + pass)];
    tiles = std::max(tiles, which.tile_end - which.tile_begin);
  }
  return tiles;
}

// Sets which tiles a launch for pass `launch.pass` works on.
template <typename Launch>
void set_tiles(const Plan& plan, Launch& launch) {
  if (plan.groups.size() != 1) return;
  const Pass& pass = plan.passes[static_cast<size_t>(plan.groups[0].pass_begin + launch.pass)];
  launch.tile_begin = pass.tile_begin, launch.tile_end = pass.tile_end;
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

// d0 (and d1) of every query head in turn, or of every group of key heads.
struct GradientRun {
  const Context& context;
  const Plan& plan;
  BackwardLaunch launch;
  void (*start)(BackwardLaunch, int tiles, cudaStream_t);

  void run(int members, int64_t floats0, int64_t floats1) {
    const int passes = pass_count(plan);
    Workspace partial0, partial1;
    if (members * passes > 1) {
      partial0 = allocate_floats(context, floats0);
      partial1 = allocate_floats(context, floats1);
      launch.partial0 = pointer<float>(partial0);
      launch.partial1 = pointer<float>(partial1);
    }
    for (int member = 0; member < members; member++) {
      for (int pass = 0; pass < passes; pass++) {
        launch.member = member;
        launch.pass = pass;
        launch.first = member == 0 && pass == 0;
        launch.last = member == members - 1 && pass == passes - 1;
        set_tiles(plan, launch);
        start(launch, tile_count(plan, pass), static_cast<cudaStream_t>(context.stream));
      }
    }
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
  if (shape.heads > kMaxGrid) return concat("more than ", kMaxGrid, " heads, got ", shape.heads);
  if (shape.batch > kMaxGrid) return concat("more than ", kMaxGrid, " batch, got ", shape.batch);
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
  launch.q = input(args.q);
  launch.k = input(args.k);
  launch.v = input(args.v);
  launch.out = output(args.out);
  launch.lse = static_cast<float*>(args.lse);
  const int passes = pass_count(plan);
  Workspace partial;
  if (passes > 1) {
    partial = allocate_floats(context, shape.batch * shape.heads * shape.q_len * shape.v_dim);
    launch.partial = pointer<float>(partial);
  }
  for (launch.pass = 0; launch.pass < passes; launch.pass++) {
    launch.last_pass = launch.pass == passes - 1;
    set_tiles(plan, launch);
    launchers(shape).forward(launch, tile_count(plan, launch.pass), stream);
  }
}

void backward(const Context& context, const Plan& plan, const Plan& transposed,
              const BackwardArgs& args) {
  check_tile(plan, tiles(args.shape).forward.owners);
  check_tile(transposed, tiles(args.shape).transposed.owners);
  const AttentionShape& shape = args.shape;
  const auto stream = static_cast<cudaStream_t>(context.stream);
  const auto uploaded = upload(plan, stream);
  const auto uploaded_transposed = upload(transposed, stream);
  const int64_t rows = shape.batch * shape.heads * shape.q_len;
  const int64_t kv_rows = shape.batch * shape.kv_heads * shape.k_len;
  const Workspace statistics = context.allocate(static_cast<size_t>(rows) * sizeof(RowStatistics));
  BackwardLaunch launch;
  launch.shape = shape;
  launch.scale = static_cast<float>(args.scale);
  launch.scale_log2 = static_cast<float>(args.scale * std::numbers::log2e);
  launch.statistics = pointer<RowStatistics>(statistics);
  launchers(shape).statistics(launch, input(args.out), input(args.dout),
                              static_cast<const float*>(args.lse),
                              pointer<RowStatistics>(statistics), stream);
  launch.plan = uploaded_transposed->view();
  launch.x0 = input(args.k);
  launch.x1 = input(args.v);
  launch.y0 = input(args.q);
  launch.y1 = input(args.dout);
  launch.d0 = output(args.dk);
  launch.d1 = output(args.dv);
  GradientRun{context, transposed, launch, launchers(shape).backward_keys}.run(
      static_cast<int>(shape.heads / shape.kv_heads), kv_rows * shape.qk_dim,
      kv_rows * shape.v_dim);
  launch.plan = uploaded->view();
  launch.x0 = input(args.q);
  launch.x1 = input(args.dout);
  launch.y0 = input(args.k);
  launch.y1 = input(args.v);
  launch.d0 = output(args.dq);
  launch.d1 = {};
  GradientRun{context, plan, launch, launchers(shape).backward_queries}.run(1, rows * shape.qk_dim,
                                                                            0);
}

}  // namespace lace::cuda::portable
