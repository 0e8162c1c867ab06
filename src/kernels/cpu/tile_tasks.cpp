#include "kernels/cpu/tile_tasks.h"

#include <algorithm>

#include "kernels/cpu/tile_walk.h"

namespace lace::cpu {
namespace {

// Work of a chunk that is worth a task: about a tenth of a millisecond.
constexpr int64_t kChunkWork = int64_t{16} * kTileOwners * kBatchOthers;
// Chunks a thread, at least, for balance.
constexpr int64_t kChunksPerThread = 32;

struct WorkTile {
  int64_t work;
  int32_t tile;
};

// The tiles of a pass that lie in a sequence, in the plan's order.
std::vector<WorkTile> tiles_of(const Plan& plan, const Pass& pass, const PlanExtents& extents) {
  std::vector<WorkTile> tiles;
  tiles.reserve(static_cast<size_t>(pass.tile_end - pass.tile_begin));
  for (int32_t index = pass.tile_begin; index < pass.tile_end; index++) {
    const OwnerTile& tile = plan.tiles[static_cast<size_t>(index)];
    if (!may_touch(plan, tile, extents.owners)) continue;
    tiles.push_back({tile_work(plan, tile, extents.others.end), index});
  }
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

TileTasks tile_tasks(const Plan& plan, int64_t batch, int pass, int threads,
                     const Sequence* sequences) {
  // Of each batch element, or of all alike, and group.
  const int64_t lists = sequences == nullptr ? 1 : batch;
  std::vector<std::vector<WorkTile>> tiles_of_group;
  int64_t total = 0, most = 0;
  for (int64_t b = 0; b < lists; b++) {
    const PlanExtents extents = extents_of(plan, sequences, b);
    for (const HeadGroup& group : plan.groups) {
      const int32_t index = group.pass_begin + pass;
      tiles_of_group.push_back(
          index < group.pass_end ? tiles_of(plan, plan.passes[static_cast<size_t>(index)], extents)
                                 : std::vector<WorkTile>());
      for (const WorkTile& tile : tiles_of_group.back()) {
        total += tile.work * group.heads * (batch / lists);
        most = std::max(most, tile.work);
      }
    }
  }
  const int64_t fair = total / (threads * kChunksPerThread);
  if (most > fair) {
    for (std::vector<WorkTile>& tiles : tiles_of_group) {
      std::stable_sort(tiles.begin(), tiles.end(),
                       [](const WorkTile& a, const WorkTile& b) { return a.work > b.work; });
    }
  }
  TileTasks result;
  const int64_t chunk_work = std::min(kChunkWork, fair);
  int64_t work = chunk_work;  // so that the first task begins a chunk
  for (int64_t b = 0; b < batch; b++) {
    const size_t list = static_cast<size_t>(sequences == nullptr ? 0 : b) * plan.groups.size();
    for (int64_t head = 0; head < plan.heads; head++) {
      const int32_t group = plan.head_group[static_cast<size_t>(head)];
      for (const WorkTile& tile : tiles_of_group[list + static_cast<size_t>(group)]) {
        if (work >= chunk_work) {
          result.chunks.push_back(static_cast<int32_t>(result.tasks.size()));
          work = 0;
        }
        work += tile.work;
        result.tasks.push_back({static_cast<int32_t>(b), static_cast<int32_t>(head), tile.tile});
      }
    }
  }
  result.chunks.push_back(static_cast<int32_t>(result.tasks.size()));
  return result;
}

}  // namespace lace::cpu
