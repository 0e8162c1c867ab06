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

// The tiles of a pass in the plan's order.
std::vector<WorkTile> tiles_of(const Plan& plan, const Pass& pass) {
  std::vector<WorkTile> tiles;
  tiles.reserve(static_cast<size_t>(pass.tile_end - pass.tile_begin));
  for (int32_t tile = pass.tile_begin; tile < pass.tile_end; tile++) {
    tiles.push_back({tile_work(plan, plan.tiles[static_cast<size_t>(tile)]), tile});
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

TileTasks tile_tasks(const Plan& plan, int64_t batch, int pass, int threads) {
  std::vector<std::vector<WorkTile>> group_tiles;
  int64_t total = 0, most = 0;
  for (const HeadGroup& group : plan.groups) {
    const int32_t index = group.pass_begin + pass;
    group_tiles.push_back(index < group.pass_end
                              ? tiles_of(plan, plan.passes[static_cast<size_t>(index)])
                              : std::vector<WorkTile>());
    for (const WorkTile& tile : group_tiles.back()) {
      total += tile.work * group.heads * batch;
      most = std::max(most, tile.work);
    }
  }
  const int64_t fair = total / (threads * kChunksPerThread);
  if (most > fair) {
    for (std::vector<WorkTile>& tiles : group_tiles) {
      std::stable_sort(tiles.begin(), tiles.end(),
                       [](const WorkTile& a, const WorkTile& b) { return a.work > b.work; });
    }
  }
  TileTasks result;
  const int64_t chunk_work = std::min(kChunkWork, fair);
  int64_t work = chunk_work;  // so that the first task begins a chunk
  for (int64_t b = 0; b < batch; b++) {
    for (int64_t head = 0; head < plan.heads; head++) {
      const int32_t group = plan.head_group[static_cast<size_t>(head)];
      for (const WorkTile& tile : group_tiles[static_cast<size_t>(group)]) {
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
