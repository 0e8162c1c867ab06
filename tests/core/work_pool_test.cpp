#include "core/work_pool.h"

#include <chrono>
#include <numeric>
#include <set>

#include <gtest/gtest.h>

#include "lace/error.h"

namespace lace {
namespace {

TEST(WorkPool, RunsEveryTaskOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    const WorkPool pool(threads);
    EXPECT_EQ(pool.num_threads(), threads);
    for (int round = 0; round < 300; ++round) {
      const int64_t count = round % 17;
      std::vector<std::atomic<int>> runs(static_cast<size_t>(count));
      std::atomic<int> highest{0};
      run_tasks(pool, count, [&](int64_t task, int thread) {
        ++runs[static_cast<size_t>(task)];
        int seen = highest.load();
        while (thread > seen && !highest.compare_exchange_weak(seen, thread)) {
        }
      });
      for (const auto& times : runs) ASSERT_EQ(times.load(), 1);
      ASSERT_LT(highest.load(), threads);
    }
  }
}

// What a body of each thread wrote is there when run returns, and their numbers have no gaps.
TEST(WorkPool, NumbersItsThreadsInTheOrderInWhichTheyJoin) {
  const WorkPool pool(4);
  for (int round = 0; round < 300; ++round) {
    std::vector<int> calls(4);
    std::atomic<int64_t> drawn{0};
    pool.run([&](int thread) {
      while (drawn++ < 64) std::this_thread::yield();
      ++calls[static_cast<size_t>(thread)];
    });
    const int used = std::accumulate(calls.begin(), calls.end(), 0);
    ASSERT_GE(used, 1);
    for (int thread = 0; thread < 4; ++thread) {
      ASSERT_EQ(calls[static_cast<size_t>(thread)], thread < used ? 1 : 0);
    }
  }
}

// As many threads as asked for do take part, from sleep too.
TEST(WorkPool, ThreadsJoinWhenTheyGetToRun) {
  const WorkPool pool(3);
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::atomic<int> at_work{0};
    pool.run([&](int) {
      ++at_work;
      while (at_work.load() < 3) std::this_thread::yield();
    });
    EXPECT_EQ(at_work.load(), 3);
  }
}

// A thread that never gets to run delays nobody: here it is kept in its start.
TEST(WorkPool, WaitsForNoThreadThatHasNotJoined) {
  std::atomic<bool> release{false};
  const WorkPool pool(2, [&] {
    while (!release.load()) std::this_thread::yield();
  });
  std::set<int> threads;
  for (int round = 0; round < 100; ++round) {
    run_tasks(pool, 10, [&](int64_t, int thread) { threads.insert(thread); });
  }
  EXPECT_EQ(threads, std::set{0});
  release.store(true);
}

TEST(WorkPool, RunsWithinRunsStayOnTheirThread) {
  const WorkPool pool(3);
  std::atomic<int> inner{0};
  run_tasks(pool, 20, [&](int64_t, int) {
    const auto outer = std::this_thread::get_id();
    run_tasks(pool, 5, [&](int64_t, int thread) {
      EXPECT_EQ(std::this_thread::get_id(), outer);
      EXPECT_EQ(thread, 0);
      ++inner;
    });
  });
  EXPECT_EQ(inner.load(), 100);
}

TEST(WorkPool, TwoCallersAtOnce) {
  const WorkPool pool(2);
  std::atomic<int64_t> sum{0};
  const auto add = [&] {
    for (int round = 0; round < 2000; ++round) {
      run_tasks(pool, 8, [&](int64_t task, int) { sum += task; });
    }
  };
  std::thread other(add);
  add();
  other.join();
  EXPECT_EQ(sum.load(), 2 * 2000 * 28);
}

TEST(WorkPool, PassesOnTheFirstExceptionAndGoesOn) {
  const WorkPool pool(3);
  for (int round = 0; round < 200; ++round) {
    EXPECT_THROW(run_tasks(pool, 9,
                           [&](int64_t task, int) {
                             if (task % 3 == 0) throw Error("from a task");
                           }),
                 Error);
    std::atomic<int> done{0};
    run_tasks(pool, 9, [&](int64_t, int) { ++done; });
    EXPECT_EQ(done.load(), 9);
  }
}

TEST(WorkPool, NamesAWrongNumberOfThreads) {
  for (const int threads : {-1, 0, 1025}) EXPECT_THROW(WorkPool{threads}, Error);
}

}  // namespace
}  // namespace lace
