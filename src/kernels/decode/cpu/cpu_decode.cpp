#include "kernels/decode/cpu/cpu_decode.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/instruction_set.h"
#include "kernels/decode/cpu/functions.h"
#include "kernels/decode/cpu/phases.h"

namespace lace::cpu {

namespace {

constexpr int64_t kPhasesOfBlock = 5;
constexpr int64_t kTaskBytes = 1 << 16;  // of weights that a task reads: a few microseconds

size_t round_up(int64_t bytes) { return static_cast<size_t>((bytes + 63) / 64 * 64); }

// Less than this is done as fast by one thread, which then waits for nobody: on a machine that
// others use too, a thread that has lost its core stops all at the end of a phase.
constexpr int64_t kWorkOfOneThread = 1 << 20;

// Multiplications of a step's products.
int64_t step_work(const DecodeShape& s, int64_t batch) {
  const int64_t widths =
      (s.heads + s.kv_heads) * s.qk_dim + (s.heads + s.kv_heads) * s.v_dim + 2 * s.ff_width;
  return batch * s.d_model * (s.layers * widths + s.vocab);
}

int64_t phase_count(const DecodeShape& shape) { return shape.layers * kPhasesOfBlock + 1; }

int64_t task_rows(int64_t in, int64_t weight_bytes) {
  return std::clamp<int64_t>(kTaskBytes / (in * weight_bytes) / 8 * 8, 8, 64);
}

int64_t task_count(int64_t rows, int64_t each) { return (rows + each - 1) / each; }

// Of an element of the widest type that an operand or a number has.
constexpr int64_t kMostBytes = 8;

// Where a step's intermediate results lie.
struct Layout {
  Layout(const DecodeShape& shape, int64_t batch) {
    // The most columns that a task computes: of a head, or of task_rows().
    const int64_t columns = std::max<int64_t>({64, shape.qk_dim, shape.v_dim});
    phases = take(phase_count(shape) * static_cast<int64_t>(Phases::kBytes));
    q = take(batch * shape.heads * shape.qk_dim * kMostBytes);
    attention = take(batch * shape.heads * shape.v_dim * kMostBytes);
    ff = take(batch * shape.ff_width * kMostBytes);
    normed = size;
    results = normed + round_up(batch * shape.d_model * kMostBytes);
    thread_bytes = results + round_up(batch * columns * kMostBytes) - normed;
  }

  size_t take(int64_t bytes) {
    const size_t at = size;
    size += round_up(bytes);
    return at;
  }

  size_t size = 0;  // but for the threads' own
  size_t phases, q, attention, ff;
  size_t normed, results, thread_bytes;  // a thread's own, those of others thread_bytes apart
};

// One step on one thread.
class Stepper {
 public:
  Stepper(const DecodeFunctions& functions, const DecodeModel& model, const DecodeStep& step,
          Phases& phases, int thread)
      : f_(functions),
        shape_(model.shape),
        model_(model),
        step_(step),
        phases_(phases),
        layout_(model.shape, step.batch),
        row_bytes_(row_bytes(model.shape)) {
    auto* own = static_cast<std::byte*>(step.workspace);
    q_ = own + layout_.q;
    attention_ = own + layout_.attention;
    ff_ = own + layout_.ff;
    own += static_cast<size_t>(thread) * layout_.thread_bytes;
    normed_ = own + layout_.normed;
    results_ = own + layout_.results;
  }

  void run() {
    for (int64_t layer = 0; layer < shape_.layers; ++layer) block(layer);
    if (step_.logits != nullptr) logits();
  }

 private:
  using Norm = void (*)(const void*, const void*, const void*, double, int64_t, void*);

  const std::byte* part(const void* array, int64_t element, int64_t bytes) const {
    return static_cast<const std::byte*>(array) + element * bytes;
  }
  std::byte* part(void* array, int64_t element, int64_t bytes) const {
    return static_cast<std::byte*>(array) + element * bytes;
  }

  // Norms x into this thread's memory, at the first task that it has of a phase.
  void norm(bool& done, Norm function, const void* weight, const void* bias, double eps,
            int64_t bytes) {
    if (done) return;
    done = true;
    for (int64_t b = 0; b < step_.batch; ++b) {
      function(part(step_.x, b * shape_.d_model, f_.wide_bytes), weight, bias, eps, shape_.d_model,
               part(normed_, b * shape_.d_model, bytes));
    }
  }

  DecodeProduct product(const void* weight, const void* bias, int64_t first, int64_t rows,
                        int64_t in, const void* x) const {
    DecodeProduct args;
    args.weight = part(weight, first * in, f_.compute_bytes);
    args.bias = part(bias, first, f_.compute_bytes);
    args.rows = rows;
    args.in = in;
    args.batch = step_.batch;
    args.x = x;
    return args;
  }

  void block(int64_t layer) {
    const DecodeBlock& w = model_.blocks[static_cast<size_t>(layer)];
    const LayerSlots& slots = *step_.slots[layer];
    const HeadCache* caches = step_.caches + layer * shape_.kv_heads;
    int64_t phase = layer * kPhasesOfBlock;

    bool first_normed = false;
    phases_.run(phase++, shape_.heads + 2 * shape_.kv_heads, [&](int64_t task) {
      norm(first_normed, f_.norm, w.norm1_weight, w.norm1_bias, shape_.block_eps, f_.operand_bytes);
      project(w, slots, caches, task);
    });
    phases_.run(phase++, step_.batch * shape_.kv_heads,
                [&](int64_t task) { attend(slots, caches, task); });
    add_product(phase++, w.proj_weight, w.proj_bias, shape_.heads * shape_.v_dim, attention_);

    bool second_normed = false;
    const int64_t rows = task_rows(shape_.d_model, f_.compute_bytes);
    phases_.run(phase++, task_count(shape_.ff_width, rows), [&](int64_t task) {
      norm(second_normed, f_.norm, w.norm2_weight, w.norm2_bias, shape_.block_eps,
           f_.operand_bytes);
      feed_forward(w, task * rows, std::min(rows, shape_.ff_width - task * rows));
    });
    add_product(phase++, w.ff2_weight, w.ff2_bias, shape_.ff_width, ff_);
  }

  // Task `task` of the fused projection: a head of q, k or v, in this order.
  void project(const DecodeBlock& w, const LayerSlots& slots, const HeadCache* caches,
               int64_t task) {
    const int64_t heads = shape_.heads, kv_heads = shape_.kv_heads;
    const bool value = task >= heads + kv_heads;
    const int64_t first =
        value ? (heads + kv_heads) * shape_.qk_dim + (task - heads - kv_heads) * shape_.v_dim
              : task * shape_.qk_dim;
    const int64_t dim = value ? shape_.v_dim : shape_.qk_dim;
    DecodeProduct args = product(w.qkv_weight, w.qkv_bias, first, dim, shape_.d_model, normed_);
    const bool query = task < heads;
    args.out = query ? part(q_, task * dim, f_.wide_bytes) : results_;
    args.out_stride = query ? heads * dim : dim;
    f_.product(args);
    const int64_t kv_head = value ? task - heads - kv_heads : task - heads;
    for (int64_t b = 0; b < step_.batch; ++b) {
      std::byte* head = part(args.out, b * args.out_stride, f_.wide_bytes);
      if (!value && step_.cos != nullptr) f_.rotate(head, step_.cos, step_.sin, dim / 2);
      if (!query) write(slots, caches[kv_head], kv_head, b, head, value);
    }
  }

  void write(const LayerSlots& slots, const HeadCache& cache, int64_t kv_head, int64_t b,
             const std::byte* head, bool value) {
    for (const int64_t slot : slots.writes[static_cast<size_t>(kv_head)]) {
      std::byte* row = part(cache.rows, b * cache.slots + slot, row_bytes_);
      const int64_t key_bytes = shape_.qk_dim * f_.wide_bytes;
      if (value) {
        f_.narrow(head, shape_.v_dim, row + key_bytes);
      } else {
        std::memcpy(row, head, static_cast<size_t>(key_bytes));
      }
    }
  }

  // A sequence's query heads that share a key head.
  void attend(const LayerSlots& slots, const HeadCache* caches, int64_t task) {
    const int64_t b = task / shape_.kv_heads, kv_head = task % shape_.kv_heads;
    const int64_t shared = shape_.heads / shape_.kv_heads;
    for (int64_t head = kv_head * shared; head < (kv_head + 1) * shared; ++head) {
      const pattern::KeyRuns& runs = slots.reads[static_cast<size_t>(head)];
      const int64_t row = b * shape_.heads + head;
      DecodeAttention args;
      args.q = part(q_, row * shape_.qk_dim, f_.wide_bytes);
      args.scale = 1 / std::sqrt(static_cast<double>(shape_.qk_dim));
      args.runs = runs.data();
      args.run_count = static_cast<int64_t>(runs.size());
      args.rows = part(caches[kv_head].rows, b * caches[kv_head].slots, row_bytes_);
      args.row_bytes = row_bytes_;
      args.qk_dim = shape_.qk_dim;
      args.v_dim = shape_.v_dim;
      args.out = part(attention_, row * shape_.v_dim, f_.operand_bytes);
      f_.attend(args);
    }
  }

  void feed_forward(const DecodeBlock& w, int64_t first, int64_t rows) {
    DecodeProduct args = product(w.ff1_weight, w.ff1_bias, first, rows, shape_.d_model, normed_);
    args.out = results_;
    args.out_stride = rows;
    f_.product(args);
    for (int64_t b = 0; b < step_.batch; ++b) {
      f_.gelu(part(results_, b * rows, f_.wide_bytes), rows,
              part(ff_, b * shape_.ff_width + first, f_.operand_bytes));
    }
  }

  // x += weight · operands + bias
  void add_product(int64_t phase, const void* weight, const void* bias, int64_t in,
                   const void* operands) {
    const int64_t each = task_rows(in, f_.compute_bytes);
    phases_.run(phase, task_count(shape_.d_model, each), [&](int64_t task) {
      const int64_t first = task * each, rows = std::min(each, shape_.d_model - first);
      DecodeProduct args = product(weight, bias, first, rows, in, operands);
      args.out = part(step_.x, first, f_.wide_bytes);
      args.out_stride = shape_.d_model;
      args.add = true;
      f_.product(args);
    });
  }

  void logits() {
    const int64_t each = task_rows(shape_.d_model, f_.wide_bytes);
    bool normed = false;
    phases_.run(phase_count(shape_) - 1, task_count(shape_.vocab, each), [&](int64_t task) {
      norm(normed, f_.norm_wide, model_.norm_weight, model_.norm_bias, shape_.final_eps,
           f_.wide_bytes);
      DecodeProduct args;
      args.weight = part(model_.output_weight, task * each * shape_.d_model, f_.wide_bytes);
      args.rows = std::min(each, shape_.vocab - task * each);
      args.in = shape_.d_model;
      args.batch = step_.batch;
      args.x = normed_;
      args.out = part(step_.logits, task * each, f_.wide_bytes);
      args.out_stride = shape_.vocab;
      f_.product_wide(args);
    });
  }

  const DecodeFunctions& f_;
  const DecodeShape& shape_;
  const DecodeModel& model_;
  const DecodeStep& step_;
  Phases& phases_;
  Layout layout_;
  int64_t row_bytes_;
  std::byte *q_, *attention_, *ff_;  // all threads'
  std::byte *normed_, *results_;     // this thread's
};

template <const DecodeFunctionSet& kSet>
const DecodeFunctions& functions(DType compute) {
  switch (compute) {
    case DType::kFloat64:
      return kDecodeFloat64;
    case DType::kBFloat16:
      return kSet.bfloat16;
    case DType::kFloat16:
      return kSet.float16;
    case DType::kFloat32:
      break;
  }
  return kSet.float32;
}

size_t workspace_bytes(const DecodeShape& shape, int64_t batch, int threads) {
  const Layout layout(shape, batch);
  return layout.size + static_cast<size_t>(threads) * layout.thread_bytes;
}

template <const DecodeFunctionSet& kSet>
void step(const Context& context, const DecodeModel& model, const DecodeStep& args) {
  const DecodeFunctions& f = functions<kSet>(model.shape.compute);
  const Layout layout(model.shape, args.batch);
  Phases phases(static_cast<std::byte*>(args.workspace) + layout.phases, phase_count(model.shape));
  const auto body = [&](int thread) { Stepper(f, model, args, phases, thread).run(); };
  if (step_work(model.shape, args.batch) < kWorkOfOneThread) return body(0);
  context.executor->run(body);
}

template <const DecodeFunctionSet& kSet>
void store(const Context& context, const DecodeShape& shape, const DecodeStore& args) {
  const DecodeFunctions& f = functions<kSet>(shape.compute);
  const int64_t bytes = row_bytes(shape), key_bytes = shape.qk_dim * f.wide_bytes;
  run_tasks(*context.executor, shape.kv_heads, [&](int64_t head, int) {
    const HeadCache& cache = args.caches[head];
    const auto source = [&](const Tensor4& tensor, int64_t position) {
      return static_cast<const std::byte*>(tensor.data) +
             (head * tensor.head_stride + position * tensor.row_stride) * f.compute_bytes;
    };
    for (int64_t position = 0; position < args.count; ++position) {
      for (const int64_t slot : args.writes[head][static_cast<size_t>(position)]) {
        std::byte* row =
            static_cast<std::byte*>(cache.rows) + (args.sequence * cache.slots + slot) * bytes;
        f.widen(source(args.k, position), shape.qk_dim, row);
        std::memcpy(row + key_bytes, source(args.v, position),
                    static_cast<size_t>(shape.v_dim * f.compute_bytes));
      }
    }
  });
}

template <const DecodeFunctionSet& kSet>
constexpr DecodeKernels table(std::string_view name) {
  return {name, workspace_bytes, step<kSet>, store<kSet>};
}

constexpr DecodeKernels kPortable = table<kDecodePortable>("cpu_portable");
#if defined(__x86_64__)
constexpr DecodeKernels kAvx2 = table<kDecodeAvx2>("cpu_avx2");
constexpr DecodeKernels kAvx512 = table<kDecodeAvx512>("cpu_avx512");
constexpr DecodeKernels kAvx512Bf16 = table<kDecodeAvx512Bf16>("cpu_avx512_bf16");
#endif

}  // namespace

const DecodeKernels& decode_kernels() {
#if defined(__x86_64__)
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return has_bf16_dots() ? kAvx512Bf16 : kAvx512;
    case InstructionSet::kAvx2:
      return kAvx2;
    default:
      break;
  }
#endif
  return kPortable;
}

}  // namespace lace::cpu
