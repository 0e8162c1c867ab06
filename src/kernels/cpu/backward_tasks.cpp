#include "kernels/cpu/backward_tasks.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "kernels/cpu/tile_walk.h"

namespace lace::cpu {
namespace {

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

struct Builder {
  const Plan& plan;
  const AttentionShape& shape;
  const Sequence* sequences;
  BackwardTasks made{};
  std::vector<std::vector<int32_t>> links{};  // chain_links of every pass

  void make_stages() {
    const int64_t heads_per_key = shape.heads / shape.kv_heads;
    made.stages.resize(static_cast<size_t>(shape.kv_heads));
    for (int64_t kv_head = 0; kv_head < shape.kv_heads; kv_head++) {
      const int64_t end = (kv_head + 1) * heads_per_key;
      for (int64_t head = kv_head * heads_per_key; head < end;) {
        const int32_t group = plan.head_group[static_cast<size_t>(head)];
        int64_t head_end = head + 1;
        while (head_end < end && plan.head_group[static_cast<size_t>(head_end)] == group) {
          head_end++;
        }
        const HeadGroup& passes = plan.groups[static_cast<size_t>(group)];
        for (int32_t pass = passes.pass_begin; pass < passes.pass_end; pass++) {
          made.stages[static_cast<size_t>(kv_head)].push_back(
              {pass, static_cast<int32_t>(head), static_cast<int32_t>(head_end)});
        }
        head = head_end;
      }
      made.max_stages = std::max(made.max_stages, made.stages[static_cast<size_t>(kv_head)].size());
    }
  }

  void make_tasks(int64_t threads) {
    for (const Pass& pass : plan.passes) links.push_back(chain_links(plan, pass));
    const int64_t slots = shape.batch * shape.kv_heads;
    made.of_stage.resize(static_cast<size_t>(slots) * made.max_stages);
    for (int64_t begin = 0; begin < slots; begin += threads) {
      for (size_t stage = 0; stage < made.max_stages; stage++) {
        add_tasks(begin, std::min(begin + threads, slots), stage);
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
        const int64_t kv_head = slot % shape.kv_heads;
        const std::vector<BackwardStage>& stages = made.stages[static_cast<size_t>(kv_head)];
        if (stage >= stages.size()) continue;
        const auto pass_index = static_cast<size_t>(stages[stage].pass);
        const Pass& pass = plan.passes[pass_index];
        if (pass.tile_begin + t >= pass.tile_end) continue;
        found = true;
        std::vector<int64_t>& earlier = task_of[static_cast<size_t>(slot - begin)];
        const int32_t link = links[pass_index][static_cast<size_t>(t)];
        const int64_t previous = link < 0 ? -1 : earlier[static_cast<size_t>(link)];
        const int32_t tile = pass.tile_begin + t;
        const Extent keys = extents_of(plan, sequences, slot / shape.kv_heads).owners;
        if (!may_touch(plan, plan.tiles[static_cast<size_t>(tile)], keys)) {
          earlier.push_back(previous);  // its chain goes on with the one before
          continue;
        }
        BackwardTask task;
        task.batch = static_cast<int32_t>(slot / shape.kv_heads);
        task.kv_head = static_cast<int32_t>(kv_head);
        task.stage = static_cast<int32_t>(stage);
        task.tile = tile;
        task.previous = previous;
        earlier.push_back(static_cast<int64_t>(made.tasks.size()));
        made.tasks.push_back(task);
        made.of_stage[static_cast<size_t>(slot) * made.max_stages + stage]++;
      }
    }
  }
};

}  // namespace

BackwardTasks backward_tasks(const Plan& plan, const AttentionShape& shape, int64_t threads,
                             const Sequence* sequences) {
  Builder builder{plan, shape, sequences};
  builder.make_stages();
  builder.make_tasks(threads);
  return std::move(builder.made);
}

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

}  // namespace lace::cpu
