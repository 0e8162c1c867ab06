#include "kernels/cpu/attention_forward.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>

#include "kernels/cpu/scale.h"
#include "kernels/cpu/tile_tasks.h"
#include "kernels/cpu/tile_walk.h"

namespace lace::cpu {
namespace {

const std::byte* row_of(const std::byte* head, int64_t row_stride_bytes, int64_t position) {
  return head + position * row_stride_bytes;
}

// log2 of the sums of a tile, within 1e-7 relative and absolute; −inf for 0. Sums are not denormal.
// A loop without calls, so that it runs in vectors: log2(m · 2ⁿ) = n + 2 log2(e) · artanh(s),
// s = (m − 1) / (m + 1), for m in [√½, √2).
void log2_of(const float* sums, float* out) {
  for (int e = 0; e < kTileOwners; e++) {
    const int32_t bits = std::bit_cast<int32_t>(sums[e]);
    const int32_t exponent = (bits - 0x3f3504f3) >> 23;
    const float m = std::bit_cast<float>(bits - (exponent << 23));
    const float s = (m - 1) / (m + 1);
    const float t = s * s;
    const float log = s * (2.885390082f + t * (0.961796694f + t * (0.577078016f + t * 0.43f)));
    const float value = static_cast<float>(exponent) + log;
    out[e] = sums[e] > 0 ? value : sums[e] == 0 ? -std::numeric_limits<float>::infinity() : sums[e];
  }
}

// What the passes before left of each row, [batch, heads, q_len] and for `out` [… , v_dim].
struct Partial {
  Workspace memory;
  float* max = nullptr;
  float* sum = nullptr;
  float* out = nullptr;  // of 16-bit dtypes; floats are kept in ForwardArgs::out
};

// Places the scratch of `tile`, whose dims are set, at `base` and returns its size.
size_t place_scratch(Operands operands, std::byte* base, ForwardTile& tile) {
  size_t used = 0;
  const auto place = [&]<typename T>(T*& member, int count) {
    member = reinterpret_cast<T*>(base + used);
    used += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
  };
  place(tile.q, tile.qk_dim / (operands == Operands::kPairs ? 2 : 1) * kTileOwners);
  place(tile.logits, kBatchOthers * kTileOwners);
  place(tile.out, tile.v_dim * kTileOwners);
  place(tile.max, kTileOwners);
  place(tile.sum, kTileOwners);
  place(tile.factor, kTileOwners);
  place(tile.peak, kTileOwners);
  if (operands == Operands::kPairs) {
    place(tile.weight_pairs, kBatchOthers / 2 * kTileOwners);
    place(tile.v_pairs, kBatchOthers / 2 * tile.v_dim);
  } else if (operands == Operands::kWidened) {
    place(tile.k_wide, kBatchOthers * tile.qk_dim);
    place(tile.v_wide, kBatchOthers * tile.v_dim);
  }
  return used;
}

class ForwardRun {
 public:
  ForwardRun(const ForwardTypeOps& ops, const Context& context, const Plan& plan,
             const ForwardArgs& args)
      : ops_(ops), context_(context), plan_(plan), args_(args) {
    const AttentionShape& shape = args.shape;
    element_bytes_ = size_bytes(shape.dtype);
    passes_ = pass_count(plan);
    if (shape.softcap) {
      scale_ = static_cast<float>(args.softcap);
      cap_scale_ = capped_scale(args.scale, args.softcap);
      reads_queries_ = cap_scale_ != 0;
    } else {
      scale_ = logit_scale(args.scale);
      reads_queries_ = scale_ != 0;
    }
    ForwardTile tile = make_tile();
    scratch_bytes_ = place_scratch(ops.operands, nullptr, tile);
    const auto threads = static_cast<size_t>(context.executor->num_threads());
    scratch_ = context.allocate(scratch_bytes_ * threads);
    if (passes_ > 1) {
      const auto rows = static_cast<size_t>(shape.batch_in_memory() * shape.heads * shape.q_len);
      const bool keeps_out = shape.dtype != DType::kFloat32;
      const size_t out_floats = keeps_out ? rows * static_cast<size_t>(shape.v_dim) : 0;
      partial_.memory = context.allocate((2 * rows + out_floats) * sizeof(float));
      partial_.max = reinterpret_cast<float*>(partial_.memory.get());
      partial_.sum = partial_.max + rows;
      partial_.out = keeps_out ? partial_.sum + rows : nullptr;
    }
  }

  void run() {
    for (int pass = 0; pass < passes_; pass++) {
      const TileTasks tasks = tile_tasks(plan_, args_.shape.batch, pass,
                                         context_.executor->num_threads(), args_.sequences);
      run_tasks(*context_.executor, tasks.chunk_count(),
                [&](int64_t chunk, int thread) { run_chunk(tasks, chunk, pass, thread); });
    }
  }

 private:
  const std::byte* head_of(const Tensor4& tensor, int64_t batch, int64_t head) const {
    return static_cast<const std::byte*>(tensor.data) +
           (batch * tensor.batch_stride + head * tensor.head_stride) * element_bytes_;
  }

  // A tile of queries, what is left to read of its keys, and where its rows are.
  struct Unit {
    TileTask task;
    OwnerLanes owners;
    BatchReader keys;
    const void* q_rows[kTileOwners];
    void* out_rows[kTileOwners];
  };

  // A batch of keys and where its rows are.
  struct Step {
    OtherBatch batch;
    const void* k_rows[kBatchOthers];
    const void* v_rows[kBatchOthers];
  };

  // Rows to prefetch while a step is computed.
  struct Ahead {
    const void* rows[2 * kTileOwners + kBatchOthers];
    int count = 0;
    void add(const void* const* more, int n) {
      for (int i = 0; i < n; i++) {
        if (more[i]) rows[count++] = more[i];
      }
    }
  };

  // The tiles of a chunk, one after the other: what the next step reads, of this tile or of the
  // next, is known one step ahead.
  void run_chunk(const TileTasks& tasks, int64_t chunk, int pass, int thread) const {
    const auto index = static_cast<size_t>(chunk);
    ForwardTile tile = make_tile();
    place_scratch(ops_.operands, scratch_.get() + scratch_bytes_ * static_cast<size_t>(thread),
                  tile);
    Unit units[2];
    Step steps[2];
    int unit = 0, step = 0;
    bool more = false;  // steps[step] is a batch of units[unit]
    const auto open = [&](int32_t task, int which_unit, int which_step) {
      open_unit(tasks.tasks[static_cast<size_t>(task)], units[which_unit]);
      return read_step(units[which_unit], steps[which_step]);
    };
    more = open(tasks.chunks[index], unit, step);
    for (int32_t task = tasks.chunks[index]; task < tasks.chunks[index + 1]; task++) {
      Unit& current = units[unit];
      const bool last_task = task + 1 == tasks.chunks[index + 1];
      bool opened = false, next_more = false;
      begin(current, tile, pass);
      while (more) {
        Ahead ahead;
        const int next = step ^ 1;
        more = read_step(current, steps[next]);
        if (more) {
          ahead.add(steps[next].k_rows, steps[next].batch.count);
        } else if (!last_task) {
          opened = true;
          next_more = open(task + 1, unit ^ 1, next);
          ahead.add(units[unit ^ 1].q_rows, units[unit ^ 1].owners.count);
          ahead.add(steps[next].k_rows, steps[next].batch.count);
          ahead.add(units[unit ^ 1].out_rows, units[unit ^ 1].owners.count);
        }
        ops_.add_batch(tile, steps[step].batch, steps[step].k_rows, steps[step].v_rows, ahead.rows,
                       ahead.count);
        step = next;
      }
      finish(current, tile, pass);
      if (!last_task && !opened) next_more = open(task + 1, unit ^ 1, step);
      more = next_more;
      unit ^= 1;
    }
  }

  ForwardTile make_tile() const {
    ForwardTile tile;
    tile.qk_dim = static_cast<int>(args_.shape.qk_dim);
    tile.v_dim = static_cast<int>(args_.shape.v_dim);
    // With a scale of 0 the queries are packed as 0 instead, so that a masked logit of −∞ stays it.
    const double scale = scale_ == 0 ? 1 : std::fabs(static_cast<double>(scale_));
    tile.scale = static_cast<float>(scale * std::numbers::log2e);
    tile.capped = args_.shape.softcap;
    tile.cap_scale = cap_scale_;
    return tile;
  }

  void open_unit(const TileTask& task, Unit& unit) const {
    const OwnerTile& tile = plan_.tiles[static_cast<size_t>(task.tile)];
    unit.task = task;
    const PlanExtents extents = extents_of(plan_, args_.sequences, task.batch);
    unit.owners = owners_of(plan_, tile, extents.owners);
    unit.keys = BatchReader(plan_, tile, unit.owners, extents.others);
    const std::byte* q = head_of(args_.q, task.batch, task.head);
    const std::byte* out = head_of(args_.out, task.batch, task.head);
    for (int e = 0; e < unit.owners.count; e++) {
      const int64_t position = unit.owners.positions[e];
      unit.q_rows[e] = position < 0 || !reads_queries_
                           ? nullptr
                           : row_of(q, args_.q.row_stride * element_bytes_, position);
      unit.out_rows[e] = position < 0 ? nullptr
                                      : const_cast<std::byte*>(row_of(
                                            out, args_.out.row_stride * element_bytes_, position));
    }
  }

  bool read_step(Unit& unit, Step& step) const {
    if (!unit.keys.next(step.batch)) return false;
    const int64_t kv_head = unit.task.head / (args_.shape.heads / args_.shape.kv_heads);
    const std::byte* k = head_of(args_.k, unit.task.batch, kv_head);
    const std::byte* v = head_of(args_.v, unit.task.batch, kv_head);
    const int64_t k_stride = args_.k.row_stride * element_bytes_;
    const int64_t v_stride = args_.v.row_stride * element_bytes_;
    for (int r = 0; r < step.batch.count; r++) {
      step.k_rows[r] = row_of(k, k_stride, step.batch.positions[r]);
      step.v_rows[r] = row_of(v, v_stride, step.batch.positions[r]);
    }
    return true;
  }

  void begin(const Unit& unit, ForwardTile& tile, int pass) const {
    tile.owners = unit.owners.count;
    if (tile.owners == 0) return;
    load_queries(unit, tile);
    std::fill_n(tile.max, kTileOwners, kNoLogit);
    std::fill_n(tile.sum, kTileOwners, 0.0f);
    if (pass == 0) {
      std::fill_n(tile.out, tile.v_dim * kTileOwners, 0.0f);
    } else {
      resume(unit, tile);
    }
  }

  // Packs the queries with the sign of the scale, which the rest takes as positive.
  void load_queries(const Unit& unit, ForwardTile& tile) const {
    ops_.pack_queries(tile, unit.q_rows);
    if (scale_ >= 0) return;
    const bool pairs = ops_.operands == Operands::kPairs;
    const int words = tile.qk_dim / (pairs ? 2 : 1) * kTileOwners;
    const uint32_t sign = pairs ? 0x80008000u : 0x80000000u;
    for (int i = 0; i < words; i++) {
      uint32_t word;
      std::memcpy(&word, tile.q + i, sizeof word);
      word ^= sign;
      std::memcpy(tile.q + i, &word, sizeof word);
    }
  }

  void resume(const Unit& unit, ForwardTile& tile) const {
    const float* rows[kTileOwners];
    for (int e = 0; e < unit.owners.count; e++) {
      rows[e] = nullptr;
      const int64_t position = unit.owners.positions[e];
      if (position < 0) continue;
      const int64_t row = row_index(unit.task, position);
      rows[e] = partial_row(unit, e);
      tile.max[e] = partial_.max[row];
      tile.sum[e] = partial_.sum[row];
    }
    ops_.resume(tile, rows);
  }

  void finish(const Unit& unit, const ForwardTile& tile, int pass) const {
    auto* lse = static_cast<float*>(args_.lse);
    const bool last = pass + 1 == passes_of(plan_, unit.task.head);
    float log_sum[kTileOwners];
    log2_of(tile.sum, log_sum);
    for (int e = 0; e < unit.owners.count; e++) {
      if (unit.owners.positions[e] < 0) continue;
      const int64_t row = row_index(unit.task, unit.owners.positions[e]);
      lse[row] = static_cast<float>(static_cast<double>(tile.max[e]) *
                                        std::fabs(static_cast<double>(scale_)) +
                                    static_cast<double>(log_sum[e]) * std::numbers::ln2);
      if (last) continue;
      partial_.max[row] = tile.max[e];
      partial_.sum[row] = tile.sum[e];
    }
    ops_.finish(tile, unit.out_rows);
    if (last || !partial_.out) return;
    float* rows[kTileOwners];
    for (int e = 0; e < unit.owners.count; e++) {
      rows[e] = unit.out_rows[e] ? partial_row(unit, e) : nullptr;
    }
    ops_.finish_fp32(tile, rows);
  }

  int64_t row_index(const TileTask& task, int64_t position) const {
    return args_.shape.lse_index(task.batch, task.head, position);
  }

  // Where the fp32 result of the row of lane e stands between passes.
  float* partial_row(const Unit& unit, int e) const {
    if (!partial_.out) return static_cast<float*>(unit.out_rows[e]);
    return partial_.out + row_index(unit.task, unit.owners.positions[e]) * args_.shape.v_dim;
  }

  const ForwardTypeOps& ops_;
  const Context& context_;
  const Plan& plan_;
  const ForwardArgs& args_;
  int64_t element_bytes_ = 0;
  int passes_ = 0;
  float scale_ = 0;  // of s (attention_forward.h)
  float cap_scale_ = 0;
  bool reads_queries_ = true;  // else logits are 0
  size_t scratch_bytes_ = 0;
  Workspace scratch_;
  Partial partial_;
};

}  // namespace

void attention_forward(const ForwardTypeOps& ops, const Context& context, const Plan& plan,
                       const ForwardArgs& args) {
  assert(args.shape.qk_dim <= kMaxHeadDim && args.shape.v_dim <= kMaxHeadDim);
  ForwardRun(ops, context, plan, args).run();
}

}  // namespace lace::cpu
