#include "kernels/cpu/attention_backward.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <memory>
#include <thread>
#include <unordered_map>
#include <vector>

#include "kernels/cpu/tile_walk.h"

namespace lace::cpu {
namespace {

constexpr int64_t kRowsPerTask = 256;  // of the loops before and after the plan

// A tensor as rows, or fp32 workspace that stands in for one.
struct Rows {
  std::byte* data = nullptr;
  int64_t batch_bytes = 0, head_bytes = 0, row_bytes = 0;

  std::byte* at(int64_t batch, int64_t head, int64_t row) const {
    return data + batch * batch_bytes + head * head_bytes + row * row_bytes;
  }
};

Rows rows_of(const Tensor4& tensor, DType dtype) {
  const int64_t size = size_bytes(dtype);
  return {static_cast<std::byte*>(tensor.data), tensor.batch_stride * size,
          tensor.head_stride * size, tensor.row_stride * size};
}

// fp32 [batch, heads, len, dim] in workspace.
struct Partial {
  Workspace memory;
  Rows rows;

  Partial(const Context& context, int64_t batch, int64_t heads, int64_t len, int64_t dim) {
    const int64_t row = dim * static_cast<int64_t>(sizeof(float));
    memory = context.allocate(static_cast<size_t>(batch * heads * len * row));
    rows = {memory.get(), heads * len * row, len * row, row};
  }
};

// One pass over some query heads that share a key head: its tiles may run once all earlier stages
// of that key head are done, as they add to the same rows of dk and dv.
struct Stage {
  int32_t pass = 0;
  int32_t head_begin = 0, head_end = 0;
};

// A tile of keys of one stage.
struct Task {
  int32_t batch = 0, kv_head = 0, stage = 0;
  int32_t tile = 0;      // in Plan::tiles
  int64_t previous = 0;  // the task before it in its chain, −1 for the first
};

// For every tile of a pass, the one before it in its chain (counted from the pass's first), or −1.
std::vector<int32_t> chain_links(const Plan& plan, const Pass& pass) {
  std::vector<int32_t> links;
  std::unordered_map<int32_t, int32_t> last;
  for (int32_t t = pass.tile_begin; t < pass.tile_end; t++) {
    const int32_t chain = plan.tiles[static_cast<size_t>(t)].chain;
    const auto [entry, is_first] = last.try_emplace(chain, t - pass.tile_begin);
    links.push_back(is_first ? -1 : entry->second);
    entry->second = t - pass.tile_begin;
  }
  return links;
}

// Whether the live others of `tile` come in ascending order, so that rows passed are rows done.
bool is_ascending(const Plan& plan, const OwnerTile& tile) {
  int64_t end = std::numeric_limits<int64_t>::min();
  for (int32_t index = tile.run_begin; index < tile.run_end; index++) {
    const Run& run = plan.runs[static_cast<size_t>(index)];
    const IndexSet& others = run.others;
    if (run.tiles == 0 || others.size() == 0) continue;
    int64_t first = plan.position(others, 0, 0);
    if (first < end) return false;
    for (int32_t o = 0; o < others.outer; o++) {
      const int64_t next = plan.position(others, o, 0);
      if (o > 0 && next < first + others.inner) return false;
      first = next;
    }
    const int64_t span = first + others.inner - plan.position(others, 0, 0);
    if (run.tiles > 1 && run.step < span) return false;
    end = first + (run.tiles - 1) * run.step + others.inner;
  }
  return true;
}

// How far tasks have come with the rows of dq. Tiles of a chain add to the same rows; a task may
// add to a row only when every earlier task of its chain is past it, which fixes the order of the
// additions. Tasks are handed out in ascending order, so the lowest unfinished one never waits.
class Progress {
 public:
  static constexpr int64_t kDone = std::numeric_limits<int64_t>::max() - 1;

  explicit Progress(const std::vector<Task>& tasks)
      : tasks_(tasks), reached_(new std::atomic<int64_t>[tasks.size()]()) {}

  // Says that `task` is done with what lies below `reached`.
  void publish(int64_t task, int64_t reached) {
    reached_[task].store(reached, std::memory_order_release);
  }
  void finish(int64_t task) {
    const int64_t previous = tasks_[static_cast<size_t>(task)].previous;
    const bool all = previous < 0 || load(previous) == kAllDone;
    publish(task, all ? kAllDone : kDone);
  }

  // Waits until all earlier tasks of the chain are done with what lies below `needed`.
  void wait(int64_t task, int64_t needed) const {
    int64_t earlier = tasks_[static_cast<size_t>(task)].previous;
    while (earlier >= 0) {
      for (int spins = 0; load(earlier) < needed; spins++) {
        if (spins > kSpins) std::this_thread::yield();
      }
      if (load(earlier) == kAllDone) return;
      earlier = tasks_[static_cast<size_t>(earlier)].previous;
    }
  }

 private:
  static constexpr int64_t kAllDone = kDone + 1;  // and so are all earlier ones of the chain
  static constexpr int kSpins = 256;

  int64_t load(int64_t task) const { return reached_[task].load(std::memory_order_acquire); }

  const std::vector<Task>& tasks_;
  std::unique_ptr<std::atomic<int64_t>[]> reached_;
};

class Backward {
 public:
  Backward(const BackwardTypeOps& ops, const Context& context, const Plan& plan,
           const BackwardArgs& args)
      : ops_(ops), context_(context), plan_(plan), args_(args), shape_(args.shape) {
    make_stages();
    make_tasks();
  }

  void run() {
    allocate();
    run_plan();
    clear_untouched();
    round_partials();
  }

 private:
  // Rows of one stage and key head: heads of one group go together, pass by pass.
  void make_stages() {
    const int64_t heads_per_key = shape_.heads / shape_.kv_heads;
    stages_.resize(static_cast<size_t>(shape_.kv_heads));
    for (int64_t kv_head = 0; kv_head < shape_.kv_heads; kv_head++) {
      const int64_t end = (kv_head + 1) * heads_per_key;
      for (int64_t head = kv_head * heads_per_key; head < end;) {
        const int32_t group = plan_.head_group[static_cast<size_t>(head)];
        int64_t head_end = head + 1;
        while (head_end < end && plan_.head_group[static_cast<size_t>(head_end)] == group) {
          head_end++;
        }
        const HeadGroup& passes = plan_.groups[static_cast<size_t>(group)];
        for (int32_t pass = passes.pass_begin; pass < passes.pass_end; pass++) {
          stages_[static_cast<size_t>(kv_head)].push_back(
              {pass, static_cast<int32_t>(head), static_cast<int32_t>(head_end)});
        }
        head = head_end;
      }
      max_stages_ = std::max(max_stages_, stages_[static_cast<size_t>(kv_head)].size());
    }
  }

  // A few heads at a time, as many as there are threads: stage by stage, and within one tile by
  // tile with the heads in turn. So neighbouring tasks belong to different heads and seldom wait
  // for each other, and what the threads read at one time is small.
  void make_tasks() {
    for (const Pass& pass : plan_.passes) links_.push_back(chain_links(plan_, pass));
    const int64_t slots = shape_.batch * shape_.kv_heads;
    remaining_ = std::make_unique<std::atomic<int32_t>[]>(static_cast<size_t>(slots) * max_stages_);
    const int64_t width = context_.executor->num_threads();
    for (int64_t begin = 0; begin < slots; begin += width) {
      for (size_t stage = 0; stage < max_stages_; stage++) {
        add_tasks(begin, std::min(begin + width, slots), stage);
      }
    }
  }

  // The tasks of one stage of key heads [begin, end), counted through the batch.
  void add_tasks(int64_t begin, int64_t end, size_t stage) {
    std::vector<std::vector<int64_t>> task_of(static_cast<size_t>(end - begin));  // by tile
    bool found = true;
    for (int32_t t = 0; found; t++) {
      found = false;
      for (int64_t slot = begin; slot < end; slot++) {
        const int64_t kv_head = slot % shape_.kv_heads;
        const std::vector<Stage>& stages = stages_[static_cast<size_t>(kv_head)];
        if (stage >= stages.size()) continue;
        const auto pass_index = static_cast<size_t>(stages[stage].pass);
        const Pass& pass = plan_.passes[pass_index];
        if (pass.tile_begin + t >= pass.tile_end) continue;
        found = true;
        std::vector<int64_t>& earlier = task_of[static_cast<size_t>(slot - begin)];
        const int32_t link = links_[pass_index][static_cast<size_t>(t)];
        Task task;
        task.batch = static_cast<int32_t>(slot / shape_.kv_heads);
        task.kv_head = static_cast<int32_t>(kv_head);
        task.stage = static_cast<int32_t>(stage);
        task.tile = pass.tile_begin + t;
        task.previous = link < 0 ? -1 : earlier[static_cast<size_t>(link)];
        earlier.push_back(static_cast<int64_t>(tasks_.size()));
        tasks_.push_back(task);
        remaining_[static_cast<size_t>(slot) * max_stages_ + stage]++;
      }
    }
  }

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
      partials_.emplace_back(context_, s.batch, s.heads, s.q_len, s.qk_dim);
      dq_ = partials_.back().rows;
    }
    if (narrow && max_stages_ > 1) {
      partials_.emplace_back(context_, s.batch, s.kv_heads, s.k_len, s.qk_dim);
      dk_ = partials_.back().rows;
      partials_.emplace_back(context_, s.batch, s.kv_heads, s.k_len, s.v_dim);
      dv_ = partials_.back().rows;
    }
    const size_t rows = static_cast<size_t>(s.batch * s.heads * s.q_len);
    neg_delta_ = context_.allocate(rows * sizeof(float));
    touched_ = std::make_unique<std::atomic<uint8_t>[]>(rows);
    scratch_bytes_ = ops_.scratch_bytes(static_cast<int>(s.qk_dim), static_cast<int>(s.v_dim));
    scratch_ =
        context_.allocate(scratch_bytes_ * static_cast<size_t>(context_.executor->num_threads()));
  }

  // Calls body(batch, head, row) for every row of a [batch, heads, len, ·] tensor, in parallel.
  template <typename Body>
  void for_each_row(int64_t heads, int64_t len, const Body& body) const {
    const int64_t blocks = (len + kRowsPerTask - 1) / kRowsPerTask;
    run_tasks(*context_.executor, shape_.batch * heads * blocks, [&](int64_t task, int) {
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
    Progress progress(tasks_);
    const int64_t count = static_cast<int64_t>(tasks_.size());
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
    const Task& task = tasks_[static_cast<size_t>(index)];
    const Stage& stage = stage_of(task);
    const OwnerTile& owner_tile = plan_.tiles[static_cast<size_t>(task.tile)];
    const auto slot = static_cast<size_t>(task.batch * shape_.kv_heads + task.kv_head);
    std::atomic<int32_t>* remaining =
        &remaining_[slot * max_stages_ + static_cast<size_t>(task.stage)];
    if (task.stage > 0) {
      while (remaining[-1].load(std::memory_order_acquire) != 0) std::this_thread::yield();
    }
    const Owners owners = owners_of(plan_, owner_tile);
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
    if (max_stages_ > 1) {
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

  void set_key_tile(const Task& task, const Owners& owners, int thread, KeyTile& tile) const {
    tile.qk_dim = static_cast<int>(shape_.qk_dim);
    tile.v_dim = static_cast<int>(shape_.v_dim);
    tile.count = owners.count;
    tile.ragged = owners.rows != ~uint64_t{0};
    tile.scale = static_cast<float>(args_.scale);
    tile.scratch = scratch_.get() + scratch_bytes_ * static_cast<size_t>(thread);
    for (int e = 0; e < kTileOwners; e++) {
      const bool used = (owners.rows >> e & 1) != 0;
      tile.k[e] = used ? k_.at(task.batch, task.kv_head, owners.positions[e]) : nullptr;
      tile.v[e] = used ? v_.at(task.batch, task.kv_head, owners.positions[e]) : nullptr;
    }
  }

  void set_gradient_rows(const Task& task, const Owners& owners, GradientRows& rows) const {
    for (int e = 0; e < kTileOwners; e++) {
      const bool used = (owners.rows >> e & 1) != 0;
      rows.dk[e] = used ? dk_.at(task.batch, task.kv_head, owners.positions[e]) : nullptr;
      rows.dv[e] = used ? dv_.at(task.batch, task.kv_head, owners.positions[e]) : nullptr;
    }
  }

  // All queries of one head for a tile of keys. upcoming: the task to prefetch for at the end, this
  // one if it has another head.
  void run_head(int64_t index, int64_t head, int64_t upcoming, const Owners& owners,
                const KeyTile& tile, Progress& progress) {
    constexpr int64_t kTurn = int64_t{1} << 48;  // past every row
    const Task& task = tasks_[static_cast<size_t>(index)];
    const OwnerTile& owner_tile = plan_.tiles[static_cast<size_t>(task.tile)];
    const int64_t turn = head - stage_of(task).head_begin;
    const bool ascending = is_ascending(plan_, owner_tile);
    if (!ascending) progress.wait(index, (turn + 1) * kTurn);
    QueryRows rows;
    Prefetch prefetch;
    for_each_batch(plan_, owner_tile, owners, [&](const Batch& batch, const Batch* next) {
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

  const Stage& stage_of(const Task& task) const {
    return stages_[static_cast<size_t>(task.kv_head)][static_cast<size_t>(task.stage)];
  }

  int64_t row_index(const Task& task, int64_t head, int64_t row) const {
    return (task.batch * shape_.heads + head) * shape_.q_len + row;
  }

  // What comes to a row of dq first sets it, and computes its delta.
  void set_query_rows(const Task& task, int64_t head, const Batch& batch, QueryRows& rows) {
    constexpr float kLog2E = 1.44269504088896341f;
    const int64_t base = row_index(task, head, 0);
    const float* lse = static_cast<const float*>(args_.lse) + base;
    float* neg_delta = reinterpret_cast<float*>(neg_delta_.get()) + base;
    rows.fresh = 0;
    for (int r = 0; r < batch.count; r++) {
      const int64_t row = batch.positions[r];
      rows.q[r] = q_.at(task.batch, head, row);
      rows.dout[r] = dout_.at(task.batch, head, row);
      rows.dq[r] = reinterpret_cast<float*>(dq_.at(task.batch, head, row));
      rows.neg_lse2[r] =
          lse[row] == -std::numeric_limits<float>::infinity() ? lse[row] : -lse[row] * kLog2E;
      std::atomic<uint8_t>& touched = touched_[static_cast<size_t>(base + row)];
      if (touched.load(std::memory_order_relaxed) == 0) {
        touched.store(1, std::memory_order_relaxed);
        rows.fresh |= uint64_t{1} << r;
        neg_delta[row] =
            -static_cast<float>(args_.scale) *
            ops_.dot(rows.dout[r], out_.at(task.batch, head, row), static_cast<int>(shape_.v_dim));
      }
      rows.neg_delta[r] = neg_delta[row];
    }
  }

  void prefetch_query(const Task& task, int64_t head, int64_t row, Prefetch& prefetch) const {
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
    const Task& task = tasks_[static_cast<size_t>(index)];
    const OwnerTile& tile = plan_.tiles[static_cast<size_t>(task.tile)];
    const int size = static_cast<int>(size_bytes(shape_.dtype));
    if (head < 0) {
      head = stage_of(task).head_begin;
      for (const int64_t key : first_positions(tile.owners, plan_.owner_len)) {
        prefetch.add(k_.at(task.batch, task.kv_head, key), static_cast<int>(shape_.qk_dim) * size);
        prefetch.add(v_.at(task.batch, task.kv_head, key), static_cast<int>(shape_.v_dim) * size);
      }
    }
    if (tile.run_begin == tile.run_end) return;
    const IndexSet& others = plan_.runs[static_cast<size_t>(tile.run_begin)].others;
    for (const int64_t row : first_positions(others, plan_.other_len)) {
      prefetch_query(task, head, row, prefetch);
    }
  }

  // The positions of a set before `len`; kBatchOthers of them at most.
  std::vector<int64_t> first_positions(const IndexSet& set, int64_t len) const {
    std::vector<int64_t> positions;
    for (int32_t o = 0; o < set.outer; o++) {
      for (int32_t i = 0; i < set.inner; i++) {
        const int64_t position = plan_.position(set, o, i);
        if (position < len) positions.push_back(position);
        if (positions.size() == kBatchOthers) return positions;
      }
    }
    return positions;
  }

  // A row of dq that no tile has come to is 0.
  void clear_untouched() const {
    for_each_row(shape_.heads, shape_.q_len, [&](int64_t batch, int64_t head, int64_t row) {
      const int64_t index = (batch * shape_.heads + head) * shape_.q_len + row;
      if (touched_[static_cast<size_t>(index)].load(std::memory_order_relaxed) == 0) {
        std::memset(dq_.at(batch, head, row), 0,
                    static_cast<size_t>(shape_.qk_dim) * sizeof(float));
      }
    });
  }

  // Rounds what was added up in workspace.
  void round_partials() {
    if (partials_.empty()) return;
    const auto round = [&](const Rows& from, const Tensor4& tensor, int64_t heads, int64_t len,
                           int64_t dim) {
      const Rows to = rows_of(tensor, shape_.dtype);
      for_each_row(heads, len, [&](int64_t batch, int64_t head, int64_t row) {
        ops_.round(reinterpret_cast<const float*>(from.at(batch, head, row)),
                   to.at(batch, head, row), static_cast<int>(dim));
      });
    };
    round(dq_, args_.dq, shape_.heads, shape_.q_len, shape_.qk_dim);
    if (partials_.size() > 1) {
      round(dk_, args_.dk, shape_.kv_heads, shape_.k_len, shape_.qk_dim);
      round(dv_, args_.dv, shape_.kv_heads, shape_.k_len, shape_.v_dim);
    }
  }

  const BackwardTypeOps& ops_;
  const Context& context_;
  const Plan& plan_;
  const BackwardArgs& args_;
  const AttentionShape& shape_;
  std::vector<std::vector<Stage>> stages_;  // [kv_heads]
  size_t max_stages_ = 0;
  std::vector<std::vector<int32_t>> links_;  // chain_links of every pass
  std::vector<Task> tasks_;
  std::unique_ptr<std::atomic<int32_t>[]> remaining_;  // tasks of [batch, kv_heads, stage]
  Rows q_, k_, v_, out_, dout_;
  Rows dq_, dk_, dv_;  // partials_ where there are any
  std::vector<Partial> partials_;
  Workspace neg_delta_;                              // [batch, heads, q_len], of touched rows
  std::unique_ptr<std::atomic<uint8_t>[]> touched_;  // [batch, heads, q_len]
  Workspace scratch_;
  size_t scratch_bytes_ = 0;
};

}  // namespace

void attention_backward(const BackwardOps& ops, const Context& context, const Plan& transposed,
                        const BackwardArgs& args) {
  const bool narrow = args.shape.dtype == DType::kBFloat16;
  Backward(narrow ? ops.bfloat16 : ops.float32, context, transposed, args).run();
}

}  // namespace lace::cpu
