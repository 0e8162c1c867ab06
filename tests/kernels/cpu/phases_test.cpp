#include "kernels/decode/cpu/phases.h"

#include <array>
#include <atomic>

#include <gtest/gtest.h>

#include "core/work_pool.h"

namespace lace::cpu {
namespace {

// One thread after the other.
class InTurn final : public Executor {
 public:
  int num_threads() const override { return 3; }
  void run(FunctionRef<void(int thread)> body) const override {
    for (int thread = 0; thread < 3; ++thread) body(thread);
  }
};

void expect_all_in_order(const Executor& executor) {
  constexpr std::array<int64_t, 5> kTasks = {7, 1, 0, 64, 3};
  alignas(64) std::byte memory[kTasks.size() * Phases::kBytes];
  for (int repeat = 0; repeat < 200; ++repeat) {
    Phases phases(memory, kTasks.size());
    std::array<std::atomic<int64_t>, kTasks.size()> done{};
    std::atomic<int> early{0};
    std::array<std::array<std::atomic<int>, 64>, kTasks.size()> times{};
    executor.run([&](int) {
      for (size_t phase = 0; phase < kTasks.size(); ++phase) {
        phases.run(static_cast<int64_t>(phase), kTasks[phase], [&](int64_t task) {
          for (size_t before = 0; before < phase; ++before) early += done[before] != kTasks[before];
          ++times[phase][static_cast<size_t>(task)];
          ++done[phase];
        });
        early += done[phase] != kTasks[phase];
      }
    });
    EXPECT_EQ(early, 0);
    for (size_t phase = 0; phase < kTasks.size(); ++phase) {
      for (int64_t task = 0; task < 64; ++task) {
        ASSERT_EQ(times[phase][static_cast<size_t>(task)], task < kTasks[phase] ? 1 : 0);
      }
    }
  }
}

TEST(Phases, RunEachTaskOnceAndInOrder) {
  expect_all_in_order(InTurn());
  expect_all_in_order(WorkPool(1));
  expect_all_in_order(WorkPool(4));
}

}  // namespace
}  // namespace lace::cpu
