#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#include "kernels/kernel.h"
#include "plan/plan.h"

namespace lace::cpu {

// In which order backward works on tiles of keys, and how its threads wait for each other.

// One pass over some query heads that share a key head: its tiles may run once all earlier stages
// of that key head are done, as they add to the same rows of dk and dv.
struct BackwardStage {
  int32_t pass = 0;
  int32_t head_begin = 0, head_end = 0;
};

// A tile of keys of one stage.
struct BackwardTask {
  int32_t batch = 0, kv_head = 0, stage = 0;
  int32_t tile = 0;      // in Plan::tiles
  int64_t previous = 0;  // the task before it in its chain, −1 for the first
};

struct BackwardTasks {
  std::vector<std::vector<BackwardStage>> stages;  // [kv_heads]
  size_t max_stages = 0;                           // of a key head
  std::vector<BackwardTask> tasks;                 // in the order in which they are handed out
  std::vector<int32_t> of_stage;                   // how many, [batch, kv_heads, max_stages]

  const BackwardStage& stage_of(const BackwardTask& task) const {
    return stages[static_cast<size_t>(task.kv_head)][static_cast<size_t>(task.stage)];
  }
};

// Heads of one group go together, pass by pass. A few key heads at a time, as many as there are
// threads: stage by stage, and within one tile by tile with the heads in turn. So neighbouring
// tasks belong to different heads and seldom wait for each other, and what the threads read at one
// time is small.
// sequences: as in BackwardArgs; tiles outside one are no task of it.
BackwardTasks backward_tasks(const Plan& plan, const AttentionShape& shape, int64_t threads,
                             const Sequence* sequences = nullptr);

// Whether the live others of `tile` come in ascending order, so that rows passed are rows done.
bool is_ascending(const Plan& plan, const OwnerTile& tile);

// How far tasks have come with the rows of dq. Tiles of a chain add to the same rows; a task may
// add to a row only when every earlier task of its chain is past it, which fixes the order of the
// additions. Tasks are handed out in ascending order, so the lowest unfinished one never waits.
class Progress {
 public:
  static constexpr int64_t kDone = std::numeric_limits<int64_t>::max() - 1;

  explicit Progress(const std::vector<BackwardTask>& tasks)
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

  const std::vector<BackwardTask>& tasks_;
  std::unique_ptr<std::atomic<int64_t>[]> reached_;
};

}  // namespace lace::cpu
