// lace runs on libtorch's own threads, with results that do not depend on their number.

#include <atomic>
#include <mutex>
#include <set>
#include <thread>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "lace/attention.h"

#include "ops/dense_attention.h"
#include "ops/torch_context.h"

namespace lace {
namespace {

struct Threads {
  explicit Threads(int count) : before(at::get_num_threads()) { at::set_num_threads(count); }
  ~Threads() { at::set_num_threads(before); }
  int before;
};

std::set<std::thread::id> threads_seen() {
  std::mutex mutex;
  std::set<std::thread::id> seen;
  ops::torch_executor().run([&](int) {
    std::lock_guard lock(mutex);
    seen.insert(std::this_thread::get_id());
  });
  return seen;
}

TEST(TorchExecutor, RunsOnAsManyThreadsAsLibtorch) {
  for (const int count : {1, 2, 3}) {
    Threads threads(count);
    EXPECT_EQ(ops::torch_executor().num_threads(), count);
    EXPECT_EQ(threads_seen().size(), static_cast<size_t>(count));
  }
}

TEST(TorchExecutor, StaysOnItsThreadInsideAParallelRegion) {
  Threads threads(2);
  std::mutex mutex;
  at::parallel_for(0, 2, 1, [&](int64_t, int64_t) {
    const auto seen = threads_seen();
    std::lock_guard lock(mutex);
    EXPECT_EQ(seen, std::set{std::this_thread::get_id()});
  });
}

TEST(TorchExecutor, PassesOnAnException) {
  Threads threads(2);
  EXPECT_THROW(ops::torch_executor().run([](int) { throw Error("from a thread"); }), Error);
}

// In a scope, libtorch's operations stay on the thread that calls them, its pool's included, and
// lace's pool has the threads that libtorch had.
TEST(OwnThreads, TakeOverFromLibtorch) {
  for (const int count : {1, 2, 3}) {
    Threads threads(count);
    EXPECT_EQ(&ops::current_executor(), &ops::torch_executor());
    {
      const ops::OwnThreads own;
      EXPECT_EQ(ops::current_executor().num_threads(), count);
      EXPECT_EQ(ops::make_torch_context(at::kCPU, true).executor, &ops::current_executor());
      EXPECT_EQ(at::get_num_threads(), 1);
      {
        const ops::OwnThreads nested;
        EXPECT_EQ(ops::current_executor().num_threads(), count);
      }
      EXPECT_EQ(at::get_num_threads(), 1);
      std::atomic<int> at_work{0};
      ops::current_executor().run([&](int) {
        EXPECT_EQ(at::get_num_threads(), 1);
        ++at_work;
        while (at_work.load() < count) std::this_thread::yield();
      });
      EXPECT_EQ(at_work.load(), count);
    }
    EXPECT_EQ(at::get_num_threads(), count);
    EXPECT_EQ(&ops::current_executor(), &ops::torch_executor());
    EXPECT_EQ(threads_seen().size(), static_cast<size_t>(count));
  }
}

TEST(OwnThreads, StayOnTheirThreadInsideAParallelRegion) {
  Threads threads(2);
  at::parallel_for(0, 2, 1, [&](int64_t, int64_t) {
    const ops::OwnThreads own;
    EXPECT_EQ(ops::current_executor().num_threads(), 1);
  });
}

TEST(TorchContext, AllocatesAligned) {
  const Context context = ops::make_torch_context(at::kCPU, true);
  EXPECT_TRUE(context.deterministic);
  const Workspace memory = context.allocate(1000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.get()) % 64, 0u);
  EXPECT_NE(memory, nullptr);
}

TEST(Attention, DoesNotDependOnTheNumberOfThreads) {
  at::manual_seed(7);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor q = test::random_leaf({2, 3, 300, 16}, type);
    const at::Tensor dout = at::randn({2, 3, 300, 16}).to(type);
    auto run = [&](int count) {
      Threads threads(count);
      const at::Tensor out = attention(q, q, q, Pattern::parse("local(32) | strided(32)"));
      return std::pair(out, torch::autograd::grad({out}, {q}, {dout})[0]);
    };
    const auto [out, gradient] = run(1);
    for (const int count : {2, 3}) {
      const auto [other_out, other_gradient] = run(count);
      EXPECT_TRUE(at::equal(out, other_out));
      EXPECT_TRUE(at::equal(gradient, other_gradient));
    }
  }
}

}  // namespace
}  // namespace lace
