// In which order backward hands out its tasks, and that none can wait for ever.

#include "kernels/cpu/backward_tasks.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "lace/error.h"
#include "lace/pattern.h"

#include "kernels/cpu/tile_walk.h"

namespace lace::test {
namespace {

using cpu::BackwardTask;
using cpu::BackwardTasks;

constexpr int64_t kLen = 400;

struct Layer {
  const char* pattern;
  int64_t heads, kv_heads;
};
constexpr Layer kLayers[] = {
    {"dense", 4, 4},
    {"local(40) | strided(16)", 4, 2},
    {"block(48) | summary(48, 5)", 4, 1},
    {"bidirectional(local(40) | global(3))", 2, 2},
    {"heads(1*strided(7), 1*local(30) | strided(9))", 4, 1},
    {"heads(3*local(30), 1*dense)", 4, 2},
};

template <typename Body>
void for_each_order(const Body& body) {
  for (const Layer& layer : kLayers) {
    const Plan plan =
        compile(Pattern::parse(layer.pattern).bind(layer.heads, kLen, kLen), {64, 64}, true);
    AttentionShape shape;
    shape.batch = 2;
    shape.heads = layer.heads;
    shape.kv_heads = layer.kv_heads;
    shape.q_len = shape.k_len = kLen;
    for (const int64_t threads : {1, 3, 8}) {
      SCOPED_TRACE(concat(layer.pattern, ", ", threads, " threads"));
      body(plan, shape, cpu::backward_tasks(plan, shape, threads));
    }
  }
}

// Tiles outside a sequence are left out, and chains go on over them.
TEST(BackwardTasks, FollowTheSequences) {
  const std::vector<Sequence> sequences = {{{0, kLen, 0}, {0, kLen, 0}}, {{0, 70, 0}, {5, 70, 0}}};
  const Plan plan =
      compile(Pattern::parse("local(30) | strided(16)").bind(1, kLen, kLen), {64, 64}, true);
  AttentionShape shape;
  shape.batch = 2;
  shape.heads = shape.kv_heads = 1;
  shape.q_len = shape.k_len = kLen;
  const BackwardTasks whole = cpu::backward_tasks(plan, shape, 2);
  const BackwardTasks cut = cpu::backward_tasks(plan, shape, 2, sequences.data());
  std::map<std::pair<int32_t, int32_t>, int64_t> last;  // (batch, chain of a pass) → its last task
  std::vector<int64_t> count(2);
  for (size_t t = 0; t < cut.tasks.size(); ++t) {
    const BackwardTask& task = cut.tasks[t];
    const OwnerTile& tile = plan.tiles[static_cast<size_t>(task.tile)];
    ++count[static_cast<size_t>(task.batch)];
    EXPECT_TRUE(task.batch == 0 || tile.owners.first < 70);
    const std::pair<int32_t, int32_t> chain{task.batch, task.stage * 1'000'000 + tile.chain};
    const auto [entry, is_first] = last.try_emplace(chain, -1);
    EXPECT_EQ(task.previous, entry->second);
    entry->second = static_cast<int64_t>(t);
  }
  EXPECT_EQ(count[0], static_cast<int64_t>(whole.tasks.size()) / 2);
  EXPECT_GT(count[1], 0);
  EXPECT_LT(count[1], count[0]);
}

size_t slot_of(const AttentionShape& shape, const BackwardTask& task) {
  return static_cast<size_t>(task.batch * shape.kv_heads + task.kv_head);
}

TEST(BackwardTasks, StagesHaveEveryPassOfEveryHeadOnce) {
  for_each_order([](const Plan& plan, const AttentionShape& shape, const BackwardTasks& order) {
    std::map<std::pair<int32_t, int32_t>, int> seen;  // (head, pass)
    const int64_t group = shape.heads / shape.kv_heads;
    size_t most = 0;
    for (int64_t kv_head = 0; kv_head < shape.kv_heads; ++kv_head) {
      const auto& stages = order.stages[static_cast<size_t>(kv_head)];
      most = std::max(most, stages.size());
      for (const cpu::BackwardStage& stage : stages) {
        EXPECT_GE(stage.head_begin, kv_head * group);
        EXPECT_LE(stage.head_end, (kv_head + 1) * group);
        for (int32_t head = stage.head_begin; head < stage.head_end; ++head) {
          ++seen[{head, stage.pass}];
        }
      }
    }
    EXPECT_EQ(order.max_stages, most);
    size_t expected = 0;
    for (int32_t head = 0; head < shape.heads; ++head) {
      const int32_t index = plan.head_group[static_cast<size_t>(head)];
      const HeadGroup& passes = plan.groups[static_cast<size_t>(index)];
      for (int32_t pass = passes.pass_begin; pass < passes.pass_end; ++pass, ++expected) {
        EXPECT_EQ((seen[{head, pass}]), 1) << "head " << head << ", pass " << pass;
      }
    }
    EXPECT_EQ(seen.size(), expected);
  });
}

TEST(BackwardTasks, EveryTileOfAStageIsOneTask) {
  for_each_order([](const Plan& plan, const AttentionShape& shape, const BackwardTasks& order) {
    std::map<std::tuple<size_t, int32_t, int32_t>, int> seen;  // (slot, stage, tile)
    std::vector<int32_t> of_stage(order.of_stage.size());
    for (const BackwardTask& task : order.tasks) {
      ++seen[{slot_of(shape, task), task.stage, task.tile}];
      ++of_stage[slot_of(shape, task) * order.max_stages + static_cast<size_t>(task.stage)];
    }
    EXPECT_EQ(of_stage, order.of_stage);
    size_t expected = 0;
    for (size_t slot = 0; slot < static_cast<size_t>(shape.batch * shape.kv_heads); ++slot) {
      const auto& stages = order.stages[slot % static_cast<size_t>(shape.kv_heads)];
      for (size_t stage = 0; stage < stages.size(); ++stage) {
        const Pass& pass = plan.passes[static_cast<size_t>(stages[stage].pass)];
        for (int32_t tile = pass.tile_begin; tile < pass.tile_end; ++tile, ++expected) {
          EXPECT_EQ((seen[{slot, static_cast<int32_t>(stage), tile}]), 1);
        }
      }
    }
    EXPECT_EQ(seen.size(), expected);
  });
}

// Tasks are handed out in order: what each waits for, the task before it in its chain and the whole
// stage before its own, must have been handed out earlier. Then the first that is not finished
// never waits, and no number of threads can hang.
TEST(BackwardTasks, ATaskWaitsForEarlierOnesOnly) {
  int links = 0, stages = 0;
  for_each_order([&](const Plan& plan, const AttentionShape& shape, const BackwardTasks& order) {
    std::vector<int32_t> left = order.of_stage;
    for (size_t index = 0; index < order.tasks.size(); ++index) {
      const BackwardTask& task = order.tasks[index];
      const size_t at = slot_of(shape, task) * order.max_stages + static_cast<size_t>(task.stage);
      if (task.stage > 0) {
        ASSERT_EQ(left[at - 1], 0) << "task " << index << " waits for a stage of later tasks";
        ++stages;
      }
      --left[at];
      if (task.previous < 0) continue;
      ++links;
      ASSERT_LT(task.previous, static_cast<int64_t>(index));
      const BackwardTask& previous = order.tasks[static_cast<size_t>(task.previous)];
      EXPECT_EQ(slot_of(shape, previous), slot_of(shape, task));
      EXPECT_EQ(previous.stage, task.stage);
      EXPECT_EQ(plan.tiles[static_cast<size_t>(previous.tile)].chain,
                plan.tiles[static_cast<size_t>(task.tile)].chain);
      EXPECT_LT(previous.tile, task.tile);
    }
  });
  EXPECT_GT(links, 0);
  EXPECT_GT(stages, 0);
}

// Two tasks of a stage that add to one row of dq are in one chain, the earlier one reached from the
// later.
TEST(BackwardTasks, WhoSharesARowIsInOneChain) {
  for_each_order([](const Plan& plan, const AttentionShape& shape, const BackwardTasks& order) {
    std::map<std::tuple<size_t, int32_t, int64_t>, int64_t> last;  // (slot, stage, row) → task
    for (size_t index = 0; index < order.tasks.size(); ++index) {
      const BackwardTask& task = order.tasks[index];
      std::set<int64_t> chain;
      for (int64_t t = task.previous; t >= 0; t = order.tasks[static_cast<size_t>(t)].previous) {
        chain.insert(t);
      }
      const OwnerTile& tile = plan.tiles[static_cast<size_t>(task.tile)];
      cpu::for_each_batch(
          plan, tile, cpu::owners_of(plan, tile, cpu::all_rows(plan.owner_len)),
          cpu::all_rows(plan.other_len), [&](const cpu::OtherBatch& batch, const cpu::OtherBatch*) {
            for (int r = 0; r < batch.count; ++r) {
              const auto [entry, is_first] =
                  last.try_emplace({slot_of(shape, task), task.stage, batch.positions[r]},
                                   static_cast<int64_t>(index));
              if (is_first) continue;
              EXPECT_TRUE(entry->second == static_cast<int64_t>(index) ||
                          chain.count(entry->second) == 1);
              entry->second = static_cast<int64_t>(index);
            }
          });
    }
  });
}

TEST(BackwardTasks, AscendingTilesHaveAscendingRows) {
  int ascending = 0;
  for_each_order([&](const Plan& plan, const AttentionShape&, const BackwardTasks&) {
    for (const OwnerTile& tile : plan.tiles) {
      int64_t last = -1;
      bool ascends = true;
      cpu::for_each_batch(plan, tile, cpu::owners_of(plan, tile, cpu::all_rows(plan.owner_len)),
                          cpu::all_rows(plan.other_len),
                          [&](const cpu::OtherBatch& batch, const cpu::OtherBatch*) {
                            for (int r = 0; r < batch.count; ++r) {
                              ascends = ascends && batch.positions[r] > last;
                              last = batch.positions[r];
                            }
                          });
      if (cpu::is_ascending(plan, tile)) {
        EXPECT_TRUE(ascends);
        ++ascending;
      }
    }
  });
  EXPECT_GT(ascending, 0);
}

// Threads that draw tasks as backward does, some of them slow: the order of additions to every row
// is that of the tasks, and all threads come to an end.
TEST(Progress, FixesTheOrderWithinAChain) {
  constexpr int64_t kTasks = 40, kChains = 3, kRows = 50;
  std::vector<BackwardTask> tasks(kTasks);
  for (int64_t t = 0; t < kTasks; ++t) tasks[static_cast<size_t>(t)].previous = t - kChains;
  for (int64_t t = 0; t < kChains; ++t) tasks[static_cast<size_t>(t)].previous = -1;
  for (int repeat = 0; repeat < 20; ++repeat) {
    cpu::Progress progress(tasks);
    std::vector<std::vector<int64_t>> added(kChains * kRows);  // [chain, row]: by which tasks
    std::atomic<int64_t> drawn{0};
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&] {
        for (int64_t t = drawn++; t < kTasks; t = drawn++) {
          for (int64_t row = 0; row < kRows; ++row) {
            progress.wait(t, row + 1);
            added[static_cast<size_t>(t % kChains * kRows + row)].push_back(t);
            if ((t + row) % 7 == 0) std::this_thread::yield();
            progress.publish(t, row + 1);
          }
          progress.finish(t);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (int64_t chain = 0; chain < kChains; ++chain) {
      for (int64_t row = 0; row < kRows; ++row) {
        const std::vector<int64_t>& order = added[static_cast<size_t>(chain * kRows + row)];
        EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
        EXPECT_EQ(static_cast<int64_t>(order.size()), (kTasks - chain + kChains - 1) / kChains);
      }
    }
  }
}

}  // namespace
}  // namespace lace::test
