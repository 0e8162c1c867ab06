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
    prepare();
    run_plan();
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

  // Stage by stage, and within one tile by tile with the heads in turn: neighbouring tasks belong
  // to different heads, so that they seldom wait for each other.
  void make_tasks() {
    std::vector<std::vector<int32_t>> links;
    for (const Pass& pass : plan_.passes) links.push_back(chain_links(plan_, pass));
    const size_t slots = static_cast<size_t>(shape_.batch * shape_.kv_heads);
    remaining_ = std::make_unique<std::atomic<int32_t>[]>(slots * max_stages_);
    std::vector<std::vector<int64_t>> task_of(slots);  // by tile of the pass
    for (size_t stage = 0; stage < max_stages_; stage++) {
      for (auto& tasks : task_of) tasks.clear();
      bool found = true;
      for (int32_t t = 0; found; t++) {
        found = false;
        for (size_t slot = 0; slot < slots; slot++) {
          const size_t kv_head = slot % static_cast<size_t>(shape_.kv_heads);
          if (stage >= stages_[kv_head].size()) continue;
          const auto pass_index = static_cast<size_t>(stages_[kv_head][stage].pass);
          const Pass& pass = plan_.passes[pass_index];
          if (pass.tile_begin + t >= pass.tile_end) continue;
          found = true;
          const int32_t link = links[pass_index][static_cast<size_t>(t)];
          Task task;
          task.batch = static_cast<int32_t>(slot / static_cast<size_t>(shape_.kv_heads));
          task.kv_head = static_cast<int32_t>(kv_head);
          task.stage = static_cast<int32_t>(stage);
          task.tile = pass.tile_begin + t;
          task.previous = link < 0 ? -1 : task_of[slot][static_cast<size_t>(link)];
          task_of[slot].push_back(static_cast<int64_t>(tasks_.size()));
          tasks_.push_back(task);
          remaining_[slot * max_stages_ + stage]++;
        }
      }
    }
  }

  void allocate() {
    const AttentionShape& s = shape_;
    const bool narrow = s.dtype != DType::kFloat32;
    q_ = rows_of(args_.q, s.dtype);
    k_ = rows_of(args_.k, s.dtype);
    v_ = rows_of(args_.v, s.dtype);
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
    delta_ = context_.allocate(static_cast<size_t>(s.batch * s.heads * s.q_len) * sizeof(float));
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

  // delta = −scale · Σ dout · out, and dq = 0.
  void prepare() {
    const Rows out = rows_of(args_.out, shape_.dtype);
    float* delta = reinterpret_cast<float*>(delta_.get());
    const float scale = static_cast<float>(args_.scale);
    const size_t dq_bytes = static_cast<size_t>(shape_.qk_dim) * sizeof(float);
    for_each_row(shape_.heads, shape_.q_len, [&](int64_t batch, int64_t head, int64_t row) {
      delta[(batch * shape_.heads + head) * shape_.q_len + row] =
          -scale * ops_.dot(dout_.at(batch, head, row), out.at(batch, head, row),
                            static_cast<int>(shape_.v_dim));
      std::memset(dq_.at(batch, head, row), 0, dq_bytes);
    });
  }

  void run_plan() {
    Progress progress(tasks_);
    run_tasks(*context_.executor, static_cast<int64_t>(tasks_.size()),
              [&](int64_t index, int thread) { run_task(index, thread, progress); });
  }

  void run_task(int64_t index, int thread, Progress& progress) {
    const Task& task = tasks_[static_cast<size_t>(index)];
    const Stage& stage =
        stages_[static_cast<size_t>(task.kv_head)][static_cast<size_t>(task.stage)];
    const OwnerTile& owner_tile = plan_.tiles[static_cast<size_t>(task.tile)];
    std::atomic<int32_t>* remaining =
        &remaining_[(static_cast<size_t>(task.batch) * static_cast<size_t>(shape_.kv_heads) +
                     static_cast<size_t>(task.kv_head)) *
                        max_stages_ +
                    static_cast<size_t>(task.stage)];
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
      run_head(index, owner_tile, owners, tile, head, head - stage.head_begin, progress);
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

  // All queries of one head for a tile of keys. turn: which head of the task it is.
  void run_head(int64_t index, const OwnerTile& owner_tile, const Owners& owners,
                const KeyTile& tile, int64_t head, int64_t turn, Progress& progress) const {
    constexpr int64_t kTurn = int64_t{1} << 48;  // past every row
    const int64_t batch_index = tasks_[static_cast<size_t>(index)].batch;
    const bool ascending = is_ascending(plan_, owner_tile);
    if (!ascending) progress.wait(index, (turn + 1) * kTurn);
    QueryRows rows[2];
    int current = 0;
    bool first = true;
    for_each_batch(plan_, owner_tile, owners, [&](const Batch& batch, const Batch* next) {
      if (first) set_query_rows(batch_index, head, batch, rows[current]);
      first = false;
      if (next) set_query_rows(batch_index, head, *next, rows[current ^ 1]);
      const int64_t passed = turn * kTurn + batch.positions[batch.count - 1] + 1;
      if (ascending) progress.wait(index, passed);
      ops_.batch(tile, batch, rows[current], next ? &rows[current ^ 1] : nullptr,
                 next ? next->count : 0);
      if (ascending) progress.publish(index, passed);
      current ^= 1;
    });
    progress.publish(index, (turn + 1) * kTurn);
  }

  void set_query_rows(int64_t batch_index, int64_t head, const Batch& batch,
                      QueryRows& rows) const {
    constexpr float kLog2E = 1.44269504088896341f;
    const int64_t base = (batch_index * shape_.heads + head) * shape_.q_len;
    const float* lse = static_cast<const float*>(args_.lse) + base;
    const float* delta = reinterpret_cast<const float*>(delta_.get()) + base;
    for (int r = 0; r < batch.count; r++) {
      const int64_t row = batch.positions[r];
      rows.q[r] = q_.at(batch_index, head, row);
      rows.dout[r] = dout_.at(batch_index, head, row);
      rows.dq[r] = reinterpret_cast<float*>(dq_.at(batch_index, head, row));
      rows.neg_lse2[r] =
          lse[row] == -std::numeric_limits<float>::infinity() ? lse[row] : -lse[row] * kLog2E;
      rows.neg_delta[r] = delta[row];
    }
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
  std::vector<Task> tasks_;
  std::unique_ptr<std::atomic<int32_t>[]> remaining_;  // tasks of [batch, kv_heads, stage]
  Rows q_, k_, v_, dout_, dq_, dk_, dv_;  // of the last three, partials_ where there are any
  std::vector<Partial> partials_;
  Workspace delta_, scratch_;
  size_t scratch_bytes_ = 0;
};

}  // namespace

void attention_backward(const BackwardOps& ops, const Context& context, const Plan& transposed,
                        const BackwardArgs& args) {
  const bool narrow = args.shape.dtype == DType::kBFloat16;
  Backward(narrow ? ops.bfloat16 : ops.float32, context, transposed, args).run();
}

}  // namespace lace::cpu
