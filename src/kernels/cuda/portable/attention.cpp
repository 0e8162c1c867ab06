#include "kernels/cuda/portable/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/portable/launch.h"
#include "kernels/cuda/softcap.h"

namespace lace::cuda::portable {
namespace {

// How much of the tensors of some heads a section may keep in L2.
constexpr int64_t kSectionBytes = 20 << 20;
// A multiprocessor's share of a section, in longest items.
constexpr int64_t kShareOfLongest = 4;

// Others that an owner has on average, up to which dq is computed on its own: clearing, adding and
// rounding sums would take longer than computing the scores twice.
constexpr int64_t kFewOthers = 256;

const Launchers& launchers(const AttentionShape& shape) {
  return shape.dtype == DType::kBFloat16 ? kBFloat16Launchers : kFloat16Launchers;
}

// The passes of a plan on one GPU.
struct UploadedOrder {
  PassOrder order;
  OrderTables tables;
  // Tiles of a group before its last pass and in it, at most.
  int32_t most_first = 0, most_last = 0;
};

const UploadedOrder& order_of(const UploadedPlan& uploaded, const Plan& plan, cudaStream_t stream) {
  const auto make = [&](UploadedOrder& made, DevicePacker& packer) {
    made.order = order_passes(plan);
    if (plan.groups.size() == 1) made.tables.only = made.order.groups[0];
    packer.add(made.order.tiles, &made.tables.tiles);
    packer.add(made.order.groups, &made.tables.groups);
    packer.add(made.order.row_bits, &made.tables.row_bits);
    for (const PassOrder::Group& group : made.order.groups) {
      made.most_first = std::max(made.most_first, group.first);
      made.most_last = std::max(made.most_last, group.end - group.begin - group.first);
    }
  };
  return uploaded.table<UploadedOrder>({}, stream, make);
}

// A plan on the GPU and what launches over it need.
struct PlanOnDevice {
  const Plan& plan;
  std::shared_ptr<const UploadedPlan> uploaded;
  const UploadedOrder& uploaded_order;
  PlanOnDevice(const Plan& of, cudaStream_t stream)
      : plan(of), uploaded(upload(of, stream)), uploaded_order(order_of(*uploaded, of, stream)) {}

  bool several_passes() const { return uploaded_order.order.several_passes; }

  // The items of a launch for `heads` heads of each batch element, each of which reads
  // `bytes_of_head` while its tiles are worked on. `counters` is what they count in.
  BlockQueue items(const Context& context, int64_t batch, int64_t heads, int64_t bytes_of_head,
                   Workspace& counters) const {
    const int64_t all = heads * batch;
    const PassOrder& order = uploaded_order.order;
    BlockQueue queue;
    queue.order = uploaded_order.tables;
    queue.heads = static_cast<int>(heads);
    queue.sections = {static_cast<int32_t>(all),
                      section_size(all, bytes_of_head, kSectionBytes, kShareOfLongest,
                                   order.longest, order.tiles_of_others / plan.heads),
                      uploaded_order.most_first,
                      uploaded_order.most_first + uploaded_order.most_last};
    if (several_passes()) {
      const size_t bytes = static_cast<size_t>(1 + all) * sizeof(int32_t);
      counters = context.allocate(bytes);
      LACE_CUDA(
          cudaMemsetAsync(counters.get(), 0, bytes, static_cast<cudaStream_t>(context.stream)));
      queue.next_item = reinterpret_cast<int32_t*>(counters.get());
      queue.done = queue.next_item + 1;
    }
    return queue;
  }
};

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

// d0 (and d1) of every query head, or of every key head from all its query heads, which one launch
// does if they have the same tiles.
struct GradientRun {
  const Context& context;
  const Plan& plan;
  const PlanOnDevice& on_device;
  BackwardLaunch launch;
  void (*start)(BackwardLaunch, cudaStream_t);
  int64_t heads, bytes_of_head;

  void run(int members, int64_t floats0, int64_t floats1) {
    launch.plan = on_device.uploaded->view();
    launch.members = heads_are_alike(plan, members) ? members : 1;
    Workspace partial0, partial1;
    if (members > launch.members || on_device.several_passes()) {
      partial0 = context.allocate_floats(floats0);
      partial1 = context.allocate_floats(floats1);
      launch.partial0 = pointer<float>(partial0);
      launch.partial1 = pointer<float>(partial1);
    }
    for (launch.member = 0; launch.member < members; launch.member += launch.members) {
      launch.first = launch.member == 0;
      launch.last = launch.member + launch.members == members;
      Workspace counters;
      launch.queue = on_device.items(context, launch.shape.batch, heads, bytes_of_head, counters);
      start(launch, static_cast<cudaStream_t>(context.stream));
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
  int64_t batch = shape.batch_in_memory();
  int64_t rows = batch * shape.heads * shape.q_len;
  int64_t ratio = shape.heads / shape.kv_heads;
  int64_t row_bytes = 2 * (shape.qk_dim + shape.v_dim);
  BackwardLaunch launch{};

  void compute() {
    const Workspace statistics =
        context.allocate(static_cast<size_t>(rows) * sizeof(RowStatistics));
    launch.shape = shape;
    launch.sequences = args.sequences;
    launch.blocks = args.blocks;
    launch.scale = static_cast<float>(args.scale);
    launch.capped = shape.softcap;
    if (launch.capped) launch.cap_scale = cap_scale(args.scale, args.softcap);
    const double of_logits = launch.capped ? args.softcap : args.scale;
    launch.scale_log2 = static_cast<float>(of_logits * std::numbers::log2e);
    launch.statistics = pointer<RowStatistics>(statistics);
    const int dq_width = run.dq_width(shape);
    const PlanOnDevice keys(transposed, stream);
    const bool few = !keys.several_passes() && others_of_owner(transposed) <= kFewOthers;
    const bool alone = context.deterministic || dq_width == 0 || few;
    Workspace sums;
    if (!alone) {
      sums = context.allocate_floats(rows * dq_width);
      launch.dq_sums = pointer<float>(sums);
    }
    run.statistics({batch, shape.heads, shape.q_len, static_cast<int32_t>(shape.v_dim)},
                   rows_of(args.out), rows_of(args.dout), lse_rows(args),
                   pointer<RowStatistics>(statistics), launch.dq_sums, dq_width, stream);
    compute_keys(keys, alone ? run.backward_keys_alone : run.backward_keys);
    if (alone) {
      compute_queries();
    } else {
      run.round({batch, shape.heads, shape.q_len, static_cast<int32_t>(shape.qk_dim)},
                {.whole = launch.dq_sums, .dim = dq_width}, 1, launch.scale, rows_of(args.dq),
                stream);
    }
  }

  void compute_keys(const PlanOnDevice& on_device, void (*start)(BackwardLaunch, cudaStream_t)) {
    launch.x0 = rows_of(args.k);
    launch.x1 = rows_of(args.v);
    launch.y0 = rows_of(args.q);
    launch.y1 = rows_of(args.dout);
    launch.d0 = rows_of(args.dk);
    launch.d1 = rows_of(args.dv);
    const int64_t kv_rows = batch * shape.kv_heads * shape.k_len;
    const int64_t bytes = on_device.plan.other_len * ratio * (row_bytes + 4 * shape.qk_dim);
    GradientRun{context, transposed, on_device, launch, start, shape.kv_heads, bytes}.run(
        static_cast<int>(ratio), kv_rows * shape.qk_dim, kv_rows * shape.v_dim);
  }

  void compute_queries() {
    const PlanOnDevice on_device(plan, stream);
    launch.x0 = rows_of(args.q);
    launch.x1 = rows_of(args.dout);
    launch.y0 = rows_of(args.k);
    launch.y1 = rows_of(args.v);
    launch.d0 = rows_of(args.dq);
    const int64_t bytes = plan.other_len * row_bytes / ratio;
    GradientRun{context, plan, on_device, launch, run.backward_queries, shape.heads, bytes}.run(
        1, rows * shape.qk_dim, 0);
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

KernelTiles tiles(const AttentionShape& shape) { return launchers(shape).tiles(shape); }

void forward(const Context& context, const Plan& plan, const ForwardArgs& args) {
  check_tile(plan, tiles(args.shape).forward.owners);
  const AttentionShape& shape = args.shape;
  const auto stream = static_cast<cudaStream_t>(context.stream);
  const PlanOnDevice on_device(plan, stream);
  ForwardLaunch launch;
  launch.plan = on_device.uploaded->view();
  launch.shape = shape;
  launch.sequences = args.sequences;
  launch.blocks = args.blocks;
  launch.capped = shape.softcap;
  if (launch.capped) launch.cap_scale = cap_scale(args.scale, args.softcap);
  const double scale = launch.capped ? args.softcap : args.scale;
  launch.negative = scale < 0;
  // Of 0 a normal number that no logit shows: dead pairs would give 0 · ∞.
  constexpr double kLeast = std::numeric_limits<float>::min();
  launch.scale = static_cast<float>(std::max(std::fabs(scale), kLeast)) * kLog2E;
  launch.q = rows_of(args.q);
  launch.k = rows_of(args.k);
  launch.v = rows_of(args.v);
  launch.out = rows_of(args.out);
  launch.lse = static_cast<float*>(args.lse);
  Workspace partial, counters;
  if (on_device.several_passes()) {
    partial =
        context.allocate_floats(shape.batch_in_memory() * shape.heads * shape.q_len * shape.v_dim);
    launch.partial = pointer<float>(partial);
  }
  const int64_t bytes =
      plan.other_len * 2 * (shape.qk_dim + shape.v_dim) * shape.kv_heads / shape.heads;
  launch.queue = on_device.items(context, shape.batch, shape.heads, bytes, counters);
  launchers(shape).forward(launch, stream);
}

void backward(const Context& context, const Plan& plan, const Plan& transposed,
              const BackwardArgs& args) {
  check_tile(plan, tiles(args.shape).forward.owners);
  check_tile(transposed, tiles(args.shape).transposed.owners);
  Backward{context, plan, transposed, args}.compute();
}

}  // namespace lace::cuda::portable
