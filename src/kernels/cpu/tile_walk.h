#pragma once

#include "core/executor.h"
#include "kernels/cpu/tile.h"
#include "plan/plan.h"

namespace lace::cpu {

// The rows of a tile's owners; those past `plan.owner_len` have no lane in use.
// Precondition: tile.owners.size() <= kTileOwners.
OwnerLanes owners_of(const Plan& plan, const OwnerTile& tile);

// Reads the live others of a tile, in the order of its runs, as batches. Rows past plan.other_len
// and rows that no owner attends to are left out, and every batch but the last holds kBatchOthers
// rows, whatever the sizes of the plan's tiles. Batches depend on the plan alone, not on
// instruction sets. `plan` and `tile` must outlive the reader.
class BatchReader {
 public:
  BatchReader() = default;
  BatchReader(const Plan& plan, const OwnerTile& tile, const OwnerLanes& owners);

  // Fills `batch` with the next rows; false, and an empty batch, at the end.
  bool next(OtherBatch& batch);

 private:
  // Adds to `batch` what fits of elements [inner_, end) of the run's current tile, whose element 0
  // is at `first`. words: the mask of element 0 and on, `stride` apart, or null.
  void read(OtherBatch& batch, int64_t first, int64_t end, const uint64_t* words, int64_t stride);
  void cut(OtherBatch& batch) const;

  const Plan* plan_ = nullptr;
  uint64_t owner_rows_ = 0;
  bool partial_ = false;  // some pair of the batch so far is dead
  int32_t run_ = 0, run_end_ = 0, tile_ = 0, outer_ = 0;
  int64_t inner_ = 0;
};

// Streams the batches of `tile` through body(batch, next): `next` is the batch after it (for
// prefetching), null at the last.
void for_each_batch(const Plan& plan, const OwnerTile& tile, const OwnerLanes& owners,
                    FunctionRef<void(const OtherBatch& batch, const OtherBatch* next)> body);

// Pairs of `tile` in whole tiles of others: its share of the work, for balancing.
int64_t tile_work(const Plan& plan, const OwnerTile& tile);

}  // namespace lace::cpu
