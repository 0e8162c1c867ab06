#include "kernels/cpu/tile_tasks.h"

#include <algorithm>

#include "kernels/cpu/tile_walk.h"

namespace lace::cpu {
namespace {

// The tiles of a pass, most work first.
std::vector<int32_t> tiles_by_work(const Plan& plan, const Pass& pass) {
  struct Entry {
    int64_t work;
    int32_t tile;
  };
  std::vector<Entry> entries;
  entries.reserve(static_cast<size_t>(pass.tile_end - pass.tile_begin));
  for (int32_t tile = pass.tile_begin; tile < pass.tile_end; tile++) {
    entries.push_back({tile_work(plan, plan.tiles[static_cast<size_t>(tile)]), tile});
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.work > b.work; });
  std::vector<int32_t> tiles;
  tiles.reserve(entries.size());
  for (const Entry& entry : entries) tiles.push_back(entry.tile);
  return tiles;
}

const HeadGroup& group_of(const Plan& plan, int64_t head) {
  return plan.groups[static_cast<size_t>(plan.head_group[static_cast<size_t>(head)])];
}

}  // namespace

int passes_of(const Plan& plan, int64_t head) {
  const HeadGroup& group = group_of(plan, head);
  return group.pass_end - group.pass_begin;
}

int pass_count(const Plan& plan) {
  int count = 0;
  for (const HeadGroup& group : plan.groups) {
    count = std::max(count, group.pass_end - group.pass_begin);
  }
  return count;
}

std::vector<TileTask> tile_tasks(const Plan& plan, int64_t batch, int pass) {
  std::vector<std::vector<int32_t>> group_tiles;
  for (const HeadGroup& group : plan.groups) {
    const int32_t index = group.pass_begin + pass;
    group_tiles.push_back(index < group.pass_end
                              ? tiles_by_work(plan, plan.passes[static_cast<size_t>(index)])
                              : std::vector<int32_t>());
  }
  std::vector<TileTask> tasks;
  for (int64_t b = 0; b < batch; b++) {
    for (int64_t head = 0; head < plan.heads; head++) {
      const int32_t group = plan.head_group[static_cast<size_t>(head)];
      for (const int32_t tile : group_tiles[static_cast<size_t>(group)]) {
        tasks.push_back({static_cast<int32_t>(b), static_cast<int32_t>(head), tile});
      }
    }
  }
  return tasks;
}

}  // namespace lace::cpu
