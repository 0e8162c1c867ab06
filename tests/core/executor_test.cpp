#include "core/executor.h"

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace lace {
namespace {

// One call after the other, as an executor may.
class InTurn final : public Executor {
 public:
  explicit InTurn(int threads) : threads_(threads) {}
  int num_threads() const override { return threads_; }
  void run(FunctionRef<void(int thread)> body) const override {
    for (int thread = 0; thread < threads_; ++thread) body(thread);
  }

 private:
  int threads_;
};

class AtOnce final : public Executor {
 public:
  int num_threads() const override { return 4; }
  void run(FunctionRef<void(int thread)> body) const override {
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 4; ++thread) threads.emplace_back([&, thread] { body(thread); });
    for (std::thread& thread : threads) thread.join();
  }
};

TEST(RunTasks, InAscendingOrderOnOneThread) {
  std::vector<int64_t> tasks;
  std::vector<int> threads;
  run_tasks(InTurn(3), 5, [&](int64_t task, int thread) {
    tasks.push_back(task);
    threads.push_back(thread);
  });
  EXPECT_EQ(tasks, (std::vector<int64_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(threads, std::vector<int>(5, 0));  // the first thread leaves nothing to the others
}

TEST(RunTasks, EachOnceOnSeveralThreads) {
  constexpr int64_t kTasks = 1000;
  std::vector<std::atomic<int>> calls(kTasks);
  run_tasks(AtOnce(), kTasks, [&](int64_t task, int thread) {
    EXPECT_TRUE(0 <= thread && thread < 4);
    // Handed out in order: every task before this one has been taken, so waiting for it ends.
    if (task > 0) {
      while (calls[static_cast<size_t>(task - 1)].load() == 0) std::this_thread::yield();
    }
    ++calls[static_cast<size_t>(task)];
  });
  for (const auto& count : calls) EXPECT_EQ(count.load(), 1);
}

TEST(RunTasks, NoneIsFine) {
  run_tasks(InTurn(2), 0, [](int64_t, int) { FAIL() << "there is no task"; });
}

TEST(RunTasks, PassesExceptionsOn) {
  EXPECT_THROW(run_tasks(InTurn(2), 3,
                         [](int64_t task, int) {
                           if (task == 1) throw std::runtime_error("task 1");
                         }),
               std::runtime_error);
}

}  // namespace
}  // namespace lace
