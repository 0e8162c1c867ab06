#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "core/executor.h"

namespace lace {

// Threads that share work on a machine that others use too. `run` starts on the calling thread at
// once, and whichever thread of the pool gets to run meanwhile joins it; none is waited for that
// has not joined. So a run in which threads draw small tasks from a shared counter (run_tasks)
// takes no longer than one thread alone would, however busy the others' cores are.
//
// A thread without work looks out for the next run for a short while and then sleeps; where it
// notices that another program wants its core, it sleeps at once.
class WorkPool final : public Executor {
 public:
  // `num_threads` counts the caller of `run`; every other thread first calls `on_start`.
  // Throws lace::Error unless 1 <= num_threads <= 1024.
  explicit WorkPool(int num_threads, const std::function<void()>& on_start = {});
  ~WorkPool() override;
  WorkPool(const WorkPool&) = delete;
  WorkPool& operator=(const WorkPool&) = delete;

  int num_threads() const override { return static_cast<int>(workers_.size()) + 1; }

  // On the caller's thread alone where the pool is at work already, a body of its own included.
  void run(FunctionRef<void(int thread)> body) const override;

 private:
  using Body = FunctionRef<void(int thread)>;

  // One word, so that joining a run and closing it exclude each other.
  struct State {
    static constexpr uint64_t kActiveOne = 1;  // threads at work, the caller aside: bits 0 to 15
    static constexpr uint64_t kJoinedOne = uint64_t{1} << 16;  // since the run's start: 16 to 30
    static constexpr uint64_t kOpen = uint64_t{1} << 31;       // threads may join
    static constexpr uint64_t kRunOne = uint64_t{1} << 32;     // number of the run

    static bool open(uint64_t state) { return (state & kOpen) != 0; }
    static uint64_t active(uint64_t state) { return state & 0xffff; }
    static int joined(uint64_t state) { return static_cast<int>(state >> 16 & 0x7fff); }
    static uint64_t run(uint64_t state) { return state >> 32; }
  };

  void call(const Body& body, int thread) const;
  void work();
  void sleep(uint64_t last_run);
  // Joins the open run if it is another one than `last_run`, and works on it.
  void join(uint64_t& last_run);
  void wait_for_joined() const;

  mutable std::atomic<bool> running_{false};
  mutable std::atomic<uint64_t> state_{0};
  mutable const Body* body_ = nullptr;
  mutable std::atomic<int> sleeping_{0};
  mutable std::atomic<bool> caller_sleeps_{false};
  mutable std::mutex mutex_;  // guards what sleeps, and `error_`
  mutable std::condition_variable wake_, finished_;
  mutable std::exception_ptr error_;
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> workers_;
};

}  // namespace lace
