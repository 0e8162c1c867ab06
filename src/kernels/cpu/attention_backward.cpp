#include "kernels/cpu/attention_backward.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "kernels/cpu/backward_tasks.h"
#include "kernels/cpu/scale.h"
#include "kernels/cpu/tile_walk.h"

namespace lace::cpu {
namespace {

constexpr int64_t kRowsPerTask = 256;  // of the loops before and after the plan

// A tensor as rows, or fp32 workspace that stands in for one.
struct RowMemory {
  std::byte* data = nullptr;
  int64_t batch_bytes = 0, head_bytes = 0, row_bytes = 0;

  std::byte* at(int64_t batch, int64_t head, int64_t row) const {
    return data + batch * batch_bytes + head * head_bytes + row * row_bytes;
  }
};

RowMemory rows_of(const Tensor4& tensor, DType dtype) {
  const int64_t size = size_bytes(dtype);
  return {static_cast<std::byte*>(tensor.data), tensor.batch_stride * size,
          tensor.head_stride * size, tensor.row_stride * size};
}

// fp32 [batch, heads, len, dim] in workspace.
struct Partial {
  Workspace memory;
  RowMemory rows;

  Partial(const Context& context, int64_t batch, int64_t heads, int64_t len, int64_t dim) {
    const int64_t row = dim * static_cast<int64_t>(sizeof(float));
    memory = context.allocate(static_cast<size_t>(batch * heads * len * row));
    // One that all sequences share has a stride of 0, as the tensors have.
    rows = {memory.get(), batch == 1 ? 0 : heads * len * row, len * row, row};
  }
};

// Cuts up `base` into `scratch` and returns how many bytes that takes.
size_t place_scratch(Operands operands, int qk_dim, int v_dim, bool capped, std::byte* base,
                     BackwardScratch& scratch) {
  size_t used = 0;
  const auto place = [&]<typename T>(T*& member, int rows, int columns) {
    member = reinterpret_cast<T*>(base + used);
    used += (static_cast<size_t>(rows) * static_cast<size_t>(columns) * sizeof(T) + 63) / 64 * 64;
  };
  scratch.qk_stride = (qk_dim + 15) / 16 * 16;
  scratch.v_stride = (v_dim + 15) / 16 * 16;
  place(scratch.k, qk_dim, kTileOwners);
  place(scratch.v, v_dim, kTileOwners);
  place(scratch.k_rows, kTileOwners, scratch.qk_stride);
  place(scratch.dk, qk_dim, kTileOwners);
  place(scratch.dv, v_dim, kTileOwners);
  place(scratch.p, kBatchOthers, kTileOwners);
  place(scratch.ds, kBatchOthers, kTileOwners);
  if (capped) place(scratch.slope, kBatchOthers, kTileOwners);
  if (operands == Operands::kPairs) {
    place(scratch.p_pairs, kBatchOthers / 2, kTileOwners);
    place(scratch.ds_rows, kBatchOthers, kTileOwners);
  }
  if (operands != Operands::kInPlace) {
    const int rows = operands == Operands::kPairs ? kBatchOthers / 2 : kBatchOthers;
    place(scratch.q, rows, scratch.qk_stride);
    place(scratch.dout, rows, scratch.v_stride);
  }
  return used;
}

class Backward {
 public:
  Backward(const BackwardTypeOps& ops, const Context& context, const Plan& plan,
           const BackwardArgs& args)
      : ops_(ops),
        context_(context),
        plan_(plan),
        args_(args),
        shape_(args.shape),
        scale_(logit_scale(args.scale)),
        cap_scale_(args.shape.softcap ? capped_scale(args.scale, args.softcap) : 0),
        order_(backward_tasks(plan, args.shape, context.executor->num_threads(), args.sequences)),
        remaining_(new std::atomic<int32_t>[order_.of_stage.size()]) {
    for (size_t i = 0; i < order_.of_stage.size(); i++) remaining_[i] = order_.of_stage[i];
  }

  void run() {
    allocate();
    run_plan();
    clear_untouched();
    round_partials();
    write_deltas();
  }

 private:
  void allocate() {
    const AttentionShape& s = shape_;
    const bool narrow = s.dtype != DType::kFloat32;
    q_ = rows_of(args_.q, s.dtype);
    k_ = rows_of(args_.k, s.dtype);
    v_ = rows_of(args_.v, s.dtype);
    out_ = rows_of(args_.out, s.dtype);
    dout_ = rows_of(args_.dout, s.dtype);
    dq_ = rows_of(args_.dq, s.dtype);
    dk_ = rows_of(args_.dk, s.dtype);
    dv_ = rows_of(args_.dv, s.dtype);
    if (narrow) {
      dq_sums_.emplace(context_, batch_, s.heads, s.q_len, s.qk_dim);
      dq_ = dq_sums_->rows;
    }
    if (narrow && order_.max_stages > 1) {
      dk_sums_.emplace(context_, batch_, s.kv_heads, s.k_len, s.qk_dim);
      dk_ = dk_sums_->rows;
      dv_sums_.emplace(context_, batch_, s.kv_heads, s.k_len, s.v_dim);
      dv_ = dv_sums_->rows;
      if (args_.sequences != nullptr) {  // no tile sets the rows of no sequence
        clear(dk_, s.qk_dim);
        clear(dv_, s.v_dim);
      }
    }
    const size_t rows = static_cast<size_t>(batch_ * s.heads * s.q_len);
    neg_delta_ = context_.allocate(rows * sizeof(float));
    touched_ = std::make_unique<std::atomic<uint8_t>[]>(rows);
    BackwardScratch scratch;
    scratch_bytes_ = place_scratch(nullptr, scratch);
    scratch_ =
        context_.allocate(scratch_bytes_ * static_cast<size_t>(context_.executor->num_threads()));
  }

  size_t place_scratch(std::byte* base, BackwardScratch& scratch) const {
    return cpu::place_scratch(ops_.operands, static_cast<int>(shape_.qk_dim),
                              static_cast<int>(shape_.v_dim), shape_.softcap, base, scratch);
  }

  // Sets sums of keys to 0.
  void clear(const RowMemory& sums, int64_t dim) const {
    for_each_row(shape_.kv_heads, shape_.k_len, [&](int64_t batch, int64_t head, int64_t row) {
      std::memset(sums.at(batch, head, row), 0, static_cast<size_t>(dim) * sizeof(float));
    });
  }

  // Calls body(batch, head, row) for every row of a [batch, heads, len, ·] tensor, in parallel.
  template <typename Body>
  void for_each_row(int64_t heads, int64_t len, const Body& body) const {
    const int64_t blocks = (len + kRowsPerTask - 1) / kRowsPerTask;
    run_tasks(*context_.executor, batch_ * heads * blocks, [&](int64_t task, int) {
      const int64_t begin = task % blocks * kRowsPerTask;
      const int64_t head = task / blocks % heads, batch = task / blocks / heads;
      for (int64_t row = begin; row < std::min(begin + kRowsPerTask, len); row++) {
        body(batch, head, row);
      }
    });
  }

  // Each thread draws its next task before it runs one, to prefetch for it. The lowest unfinished
  // task still never waits: whoever drew it runs no other.
  void run_plan() {
    Progress progress(order_.tasks);
    const int64_t count = static_cast<int64_t>(order_.tasks.size());
    std::atomic<int64_t> drawn{0};
    context_.executor->run([&](int thread) {
      int64_t upcoming = 0;
      for (int64_t index = drawn++; index < count; index = upcoming) {
        upcoming = drawn++;
        run_task(index, upcoming < count ? upcoming : -1, thread, progress);
      }
    });
  }

  // upcoming: the next task of this thread, or −1.
  void run_task(int64_t index, int64_t upcoming, int thread, Progress& progress) {
    const BackwardTask& task = order_.tasks[static_cast<size_t>(index)];
    const BackwardStage& stage = order_.stage_of(task);
    const OwnerTile& owner_tile = plan_.tiles[static_cast<size_t>(task.tile)];
    const auto slot = static_cast<size_t>(task.batch * shape_.kv_heads + task.kv_head);
    std::atomic<int32_t>* remaining =
        &remaining_[slot * order_.max_stages + static_cast<size_t>(task.stage)];
    // All earlier stages: with sequences, the last of them may have no task.
    for (int32_t earlier = 1; earlier <= task.stage; earlier++) {
      while (remaining[-earlier].load(std::memory_order_acquire) != 0) std::this_thread::yield();
    }
    const PlanExtents extents = extents_of(plan_, args_.sequences, task.batch);
    const OwnerLanes owners = owners_of(plan_, owner_tile, extents.owners);
    KeyTile tile;
    set_key_tile(task, owners, thread, tile);
    GradientRows gradients;
    set_gradient_rows(task, owners, gradients);
    if (task.stage > 0) {
      ops_.begin(tile, reinterpret_cast<const float* const*>(gradients.dk),
                 reinterpret_cast<const float* const*>(gradients.dv));
    } else {
      ops_.begin(tile, nullptr, nullptr);
    }
    for (int32_t head = stage.head_begin; head < stage.head_end; head++) {
      run_head(index, head, head + 1 < stage.head_end ? index : upcoming, owners, tile, progress);
    }
    if (dk_sums_) {
      ops_.end_fp32(tile, reinterpret_cast<float* const*>(gradients.dk),
                    reinterpret_cast<float* const*>(gradients.dv));
    } else {
      ops_.end(tile, gradients.dk, gradients.dv);
    }
    progress.finish(index);
    remaining->fetch_sub(1, std::memory_order_acq_rel);
  }

  struct GradientRows {
    void* dk[kTileOwners];
    void* dv[kTileOwners];
  };

  void set_key_tile(const BackwardTask& task, const OwnerLanes& owners, int thread,
                    KeyTile& tile) const {
    tile.qk_dim = static_cast<int>(shape_.qk_dim);
    tile.v_dim = static_cast<int>(shape_.v_dim);
    tile.count = owners.count;
    tile.ragged = owners.rows != ~uint64_t{0};
    tile.scale = scale_;
    tile.capped = shape_.softcap;
    if (tile.capped) {
      tile.softcap = static_cast<float>(args_.softcap);
      tile.cap_scale = cap_scale_;
    }
    place_scratch(scratch_.get() + scratch_bytes_ * static_cast<size_t>(thread), tile.scratch);
    const bool reads_keys = (tile.capped ? cap_scale_ : scale_) != 0;  // else logits are 0
    for (int e = 0; e < kTileOwners; e++) {
      const bool used = (owners.rows >> e & 1) != 0;
      tile.k[e] =
          used && reads_keys ? k_.at(task.batch, task.kv_head, owners.positions[e]) : nullptr;
      tile.v[e] = used ? v_.at(task.batch, task.kv_head, owners.positions[e]) : nullptr;
    }
  }

  void set_gradient_rows(const BackwardTask& task, const OwnerLanes& owners,
                         GradientRows& rows) const {
    for (int e = 0; e < kTileOwners; e++) {
      const bool used = (owners.rows >> e & 1) != 0;
      rows.dk[e] = used ? dk_.at(task.batch, task.kv_head, owners.positions[e]) : nullptr;
      rows.dv[e] = used ? dv_.at(task.batch, task.kv_head, owners.positions[e]) : nullptr;
    }
  }

  // All queries of one head for a tile of keys. upcoming: the task to prefetch for at the end, this
  // one if it has another head.
  void run_head(int64_t index, int64_t head, int64_t upcoming, const OwnerLanes& owners,
                const KeyTile& tile, Progress& progress) {
    constexpr int64_t kTurn = int64_t{1} << 48;  // past every row
    const BackwardTask& task = order_.tasks[static_cast<size_t>(index)];
    const OwnerTile& owner_tile = plan_.tiles[static_cast<size_t>(task.tile)];
    const int64_t turn = head - order_.stage_of(task).head_begin;
    const bool ascending = is_ascending(plan_, owner_tile);
    if (!ascending) progress.wait(index, (turn + 1) * kTurn);
    QueryRows rows;
    Prefetch prefetch;
    const Extent queries = extents_of(plan_, args_.sequences, task.batch).others;
    for_each_batch(plan_, owner_tile, owners, queries,
                   [&](const OtherBatch& batch, const OtherBatch* next) {
                     prefetch.count = 0;
                     if (next) {
                       for (int r = 0; r < next->count; r++) {
                         prefetch_query(task, head, next->positions[r], prefetch);
                       }
                     } else if (upcoming >= 0) {
                       prefetch_start(upcoming, upcoming == index ? head + 1 : -1, prefetch);
                     }
                     const int64_t passed = turn * kTurn + batch.positions[batch.count - 1] + 1;
                     if (ascending) progress.wait(index, passed);
                     set_query_rows(task, head, batch, rows);
                     ops_.batch(tile, batch, rows, prefetch);
                     if (ascending) progress.publish(index, passed);
                   });
    progress.publish(index, (turn + 1) * kTurn);
  }

  int64_t row_index(const BackwardTask& task, int64_t head, int64_t row) const {
    return shape_.lse_index(task.batch, head, row);
  }

  // What comes to a row of dq first sets it, and computes its delta.
  void set_query_rows(const BackwardTask& task, int64_t head, const OtherBatch& batch,
                      QueryRows& rows) {
    const int64_t base = row_index(task, head, 0);
    const float* lse = static_cast<const float*>(args_.lse) + base;
    float* neg_delta = reinterpret_cast<float*>(neg_delta_.get()) + base;
    rows.fresh = 0;
    for (int r = 0; r < batch.count; r++) {
      const int64_t row = batch.positions[r];
      rows.q[r] = q_.at(task.batch, head, row);
      rows.dout[r] = dout_.at(task.batch, head, row);
      rows.dq[r] = reinterpret_cast<float*>(dq_.at(task.batch, head, row));
      rows.neg_lse[r] = lse[row] == -std::numeric_limits<float>::infinity() ? lse[row] : -lse[row];
      std::atomic<uint8_t>& touched = touched_[static_cast<size_t>(base + row)];
      if (touched.load(std::memory_order_relaxed) == 0) {
        touched.store(1, std::memory_order_relaxed);
        rows.fresh |= uint64_t{1} << r;
        neg_delta[row] = -scale_ * delta(task.batch, head, row);
      }
      rows.neg_delta[r] = neg_delta[row];
    }
  }

  // dout·out − dlse of a row.
  float delta(int64_t batch, int64_t head, int64_t row) const {
    const float sum = ops_.dot(dout_.at(batch, head, row), out_.at(batch, head, row),
                               static_cast<int>(shape_.v_dim));
    const auto* dlse = static_cast<const float*>(args_.dlse);
    return dlse == nullptr ? sum : sum - dlse[shape_.lse_index(batch, head, row)];
  }

  void write_deltas() const {
    if (args_.delta == nullptr) return;
    auto* deltas = static_cast<float*>(args_.delta);
    for_each_row(shape_.heads, shape_.q_len, [&](int64_t batch, int64_t head, int64_t row) {
      deltas[shape_.lse_index(batch, head, row)] = delta(batch, head, row);
    });
  }

  void prefetch_query(const BackwardTask& task, int64_t head, int64_t row,
                      Prefetch& prefetch) const {
    const int size = static_cast<int>(size_bytes(shape_.dtype));
    const int qk_dim = static_cast<int>(shape_.qk_dim), v_dim = static_cast<int>(shape_.v_dim);
    prefetch.add(q_.at(task.batch, head, row), qk_dim * size);
    prefetch.add(dout_.at(task.batch, head, row), v_dim * size);
    prefetch.add(dq_.at(task.batch, head, row), qk_dim * static_cast<int>(sizeof(float)));
    const size_t index = static_cast<size_t>(row_index(task, head, row));
    if (touched_[index].load(std::memory_order_relaxed) == 0) {
      prefetch.add(out_.at(task.batch, head, row), v_dim * size);
    }
  }

  // The first queries of a task, from `head` on, or its keys too if head is −1.
  void prefetch_start(int64_t index, int64_t head, Prefetch& prefetch) const {
    const BackwardTask& task = order_.tasks[static_cast<size_t>(index)];
    const OwnerTile& tile = plan_.tiles[static_cast<size_t>(task.tile)];
    const int size = static_cast<int>(size_bytes(shape_.dtype));
    const PlanExtents extents = extents_of(plan_, args_.sequences, task.batch);
    if (head < 0) {
      head = order_.stage_of(task).head_begin;
      for (const int64_t key : first_rows(tile.owners, extents.owners)) {
        prefetch.add(k_.at(task.batch, task.kv_head, key), static_cast<int>(shape_.qk_dim) * size);
        prefetch.add(v_.at(task.batch, task.kv_head, key), static_cast<int>(shape_.v_dim) * size);
      }
    }
    if (tile.run_begin == tile.run_end) return;
    const IndexSet& others = plan_.runs[static_cast<size_t>(tile.run_begin)].others;
    for (const int64_t row : first_rows(others, extents.others)) {
      prefetch_query(task, head, row, prefetch);
    }
  }

  // The rows of a set's positions in `extent`; kBatchOthers of them at most.
  std::vector<int64_t> first_rows(const IndexSet& set, const Extent& extent) const {
    std::vector<int64_t> rows;
    for (int32_t o = 0; o < set.outer; o++) {
      for (int32_t i = 0; i < set.inner; i++) {
        const int64_t position = plan_.position(set, o, i);
        if (position >= extent.end) return rows;
        if (position >= extent.begin) rows.push_back(position + extent.row);
        if (rows.size() == kBatchOthers) return rows;
      }
    }
    return rows;
  }

  // A row of dq that no tile has come to is 0.
  void clear_untouched() const {
    for_each_row(shape_.heads, shape_.q_len, [&](int64_t batch, int64_t head, int64_t row) {
      const int64_t index = shape_.lse_index(batch, head, row);
      if (touched_[static_cast<size_t>(index)].load(std::memory_order_relaxed) == 0) {
        std::memset(dq_.at(batch, head, row), 0,
                    static_cast<size_t>(shape_.qk_dim) * sizeof(float));
      }
    });
  }

  // Rounds what was added up in workspace.
  void round_partials() {
    const auto round = [&](const RowMemory& from, const Tensor4& tensor, int64_t heads, int64_t len,
                           int64_t dim) {
      const RowMemory to = rows_of(tensor, shape_.dtype);
      for_each_row(heads, len, [&](int64_t batch, int64_t head, int64_t row) {
        ops_.round(reinterpret_cast<const float*>(from.at(batch, head, row)),
                   to.at(batch, head, row), static_cast<int>(dim));
      });
    };
    if (dq_sums_) round(dq_, args_.dq, shape_.heads, shape_.q_len, shape_.qk_dim);
    if (dk_sums_) round(dk_, args_.dk, shape_.kv_heads, shape_.k_len, shape_.qk_dim);
    if (dv_sums_) round(dv_, args_.dv, shape_.kv_heads, shape_.k_len, shape_.v_dim);
  }

  const BackwardTypeOps& ops_;
  const Context& context_;
  const Plan& plan_;
  const BackwardArgs& args_;
  const AttentionShape& shape_;
  const float scale_, cap_scale_;
  const int64_t batch_ = shape_.batch_in_memory();
  const BackwardTasks order_;
  std::unique_ptr<std::atomic<int32_t>[]> remaining_;  // tasks of [batch, kv_heads, stage]
  RowMemory q_, k_, v_, out_, dout_;
  RowMemory dq_, dk_, dv_;  // of the sums where there are any
  std::optional<Partial> dq_sums_, dk_sums_, dv_sums_;
  Workspace neg_delta_;                              // [batch, heads, q_len], of touched rows
  std::unique_ptr<std::atomic<uint8_t>[]> touched_;  // [batch, heads, q_len]
  Workspace scratch_;
  size_t scratch_bytes_ = 0;
};

}  // namespace

void attention_backward(const BackwardTypeOps& ops, const Context& context, const Plan& transposed,
                        const BackwardArgs& args) {
  assert(args.shape.qk_dim <= kMaxHeadDim && args.shape.v_dim <= kMaxHeadDim);
  Backward(ops, context, transposed, args).run();
}

}  // namespace lace::cpu
