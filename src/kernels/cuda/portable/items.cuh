#pragma once

#include <cstdint>

#include "kernels/cuda/passes.cuh"
#include "kernels/cuda/portable/launch.h"
#include "kernels/cuda/section_order.h"

namespace lace::cuda::portable {

// What a block works on, and how it joins what blocks before left of its rows.

// Part `part` of a tile of a head; null: nothing.
struct BlockTask {
  const OrderedTile* tile = nullptr;
  int batch = 0, head = 0, part = 0;
};

// Where passes wait for others, a block takes the next item and not the one of its own number, so
// that items waited for are worked on or done. plan_head(head) is a query head of which the
// launch's head has the tiles.
template <typename PlanHead>
__device__ BlockTask task_of_block(const BlockQueue& queue, const DevicePlan& plan, int parts,
                                   const PlanHead& plan_head) {
  __shared__ int32_t taken;
  int item = static_cast<int>(blockIdx.x);
  if (queue.joins()) {
    if (threadIdx.x == 0) taken = atomicAdd(queue.next_item, 1);
    __syncthreads();
    item = taken;
  }
  const SectionOrder& order = queue.sections;
  const HeadTile found = find_head_tile(order, item / parts);
  BlockTask task;
  task.batch = found.head / queue.heads;
  task.head = found.head - task.batch * queue.heads;
  task.part = item % parts;
  PassOrder::Group group = queue.order.only;
  if (group.begin == group.end) group = queue.order.groups[plan.head_group[plan_head(task.head)]];
  // Groups may have fewer tiles before the last pass, and in it.
  const bool before_last = found.tile < order.first;
  const int index = before_last ? found.tile : found.tile - order.first + group.first;
  if (group.begin + index < (before_last ? group.begin + group.first : group.end)) {
    task.tile = queue.order.tiles + group.begin + index;
  }
  return task;
}

// Which queries and keys of a batch element there are.
template <typename Launch>
__device__ Sequence sequence_of(const Launch& launch, int batch) {
  if (launch.sequences != nullptr) return launch.sequences[batch];
  return {{0, static_cast<int32_t>(launch.shape.q_len), 0},
          {0, static_cast<int32_t>(launch.shape.k_len), 0}};
}

// The first row of a head in what is [batch in memory, heads, rows].
__device__ inline int64_t head_row(const AttentionShape& shape, int batch, int64_t heads, int head,
                                   int64_t rows) {
  return ((shape.packed ? 0 : batch) * heads + head) * rows;
}

// Whether some owner of `tile` may lie in `extent`.
__device__ inline bool may_touch(const DevicePlan& plan, const OwnerTile& tile,
                                 const Extent& extent) {
  const IndexSet& set = tile.owners;
  const int32_t last = set.outer - 1;
  const int64_t offset =
      set.offsets >= 0 ? plan.offsets[set.offsets + last] : last * set.outer_stride;
  return set.first < extent.end && set.first + offset + set.inner - 1 >= extent.begin;
}

__device__ inline int32_t* done_of(const BlockQueue& queue, const BlockTask& task) {
  return queue.done + task.batch * queue.heads + task.head;
}

// Waits until what passes before left of the tile's rows can be read (past L1), and until this tile
// may be told of (pass_order.h). All threads call it.
__device__ inline void wait_for_passes(const BlockQueue& queue, const BlockTask& task, int parts) {
  if (!queue.joins() || task.tile->wait == 0) return;
  if (threadIdx.x == 0) wait_for_count(done_of(queue, task), task.tile->wait * parts);
  __syncthreads();
}

// Tells other blocks that this one's results are stored. All threads call it.
__device__ inline void tell_done(const BlockQueue& queue, const BlockTask& task) {
  if (!queue.joins() || task.tile->count == 0) return;
  __syncthreads();
  if (threadIdx.x == 0) count_tile(done_of(queue, task));
}

// In place of a tile outside a sequence: nothing but what other blocks wait for.
__device__ inline void skip_tile(const BlockQueue& queue, const BlockTask& task, int parts) {
  wait_for_passes(queue, task, parts);
  tell_done(queue, task);
}

// Whether passes before, or after, have row `row` of the tile.
__device__ inline bool has_earlier(const BlockQueue& queue, const BlockTask& task, int row) {
  return queue.joins() &&
         row_in(queue.order.row_bits, task.tile->earlier, task.tile->earlier_bits, row);
}
__device__ inline bool has_later(const BlockQueue& queue, const BlockTask& task, int row) {
  return queue.joins() &&
         row_in(queue.order.row_bits, task.tile->later, task.tile->later_bits, row);
}

// Whether later passes finish all rows of the tile.
__device__ inline bool is_left(const BlockQueue& queue, const BlockTask& task) {
  return queue.joins() && task.tile->later == kAll;
}

}  // namespace lace::cuda::portable
