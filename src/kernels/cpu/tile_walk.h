#pragma once

#include "core/executor.h"
#include "kernels/cpu/tile.h"
#include "plan/plan.h"

namespace lace::cpu {

// The rows of a tile's owners; those past `plan.owner_len` have no lane in use.
// Precondition: tile.owners.size() <= kTileOwners.
Owners owners_of(const Plan& plan, const OwnerTile& tile);

// Streams the live others of `tile`, in the order of its runs, through body(batch, next): `next`
// is the batch after it (for prefetching), null at the last. Rows past plan.other_len and rows that
// no owner attends to are left out, and every batch but the last holds kBatchOthers rows, whatever
// the sizes of the plan's tiles. Batches depend on the plan alone, not on instruction sets.
void for_each_batch(const Plan& plan, const OwnerTile& tile, const Owners& owners,
                    FunctionRef<void(const Batch& batch, const Batch* next)> body);

// Pairs of `tile` in whole tiles of others: its share of the work, for balancing.
int64_t tile_work(const Plan& plan, const OwnerTile& tile);

}  // namespace lace::cpu
