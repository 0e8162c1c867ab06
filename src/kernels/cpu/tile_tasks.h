#pragma once

#include <vector>

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

// The tasks of the pass-th pass of every head that has one: head by head, so that the threads share
// a head's keys in their caches, and in each head most work first, so that small tasks come last
// and fill the gaps.
std::vector<TileTask> tile_tasks(const Plan& plan, int64_t batch, int pass);

}  // namespace lace::cpu
