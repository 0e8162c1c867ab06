#pragma once

#include <vector>

#include "kernels/kernel.h"
#include "plan/plan.h"

namespace lace::cpu {

// One tile of owners of one head of one batch element.
struct TileTask {
  int32_t batch;
  int32_t head;
  int32_t tile;  // in Plan::tiles
};

// The most passes of any head, and the passes of one head.
int pass_count(const Plan& plan);
int passes_of(const Plan& plan, int64_t head);

// The tasks of the pass-th pass of every head that has one, cut into chunks: a thread runs the
// tasks of a chunk one after the other, and so has the rows of neighbouring tiles in its cache.
// Heads follow each other; within a head tiles keep the plan's order while each is a small part of
// what a thread has to do, and come most work first otherwise, so that the small ones fill the gaps
// at the end.
struct TileTasks {
  std::vector<TileTask> tasks;
  std::vector<int32_t> chunks;  // chunk c is tasks [chunks[c], chunks[c + 1])
  int64_t chunk_count() const { return static_cast<int64_t>(chunks.size()) - 1; }
};
// sequences: as in ForwardArgs; tiles outside one are no task of it.
TileTasks tile_tasks(const Plan& plan, int64_t batch, int pass, int threads,
                     const Sequence* sequences = nullptr);

}  // namespace lace::cpu
