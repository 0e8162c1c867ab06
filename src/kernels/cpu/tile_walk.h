#pragma once

#include "core/executor.h"
#include "kernels/cpu/tile.h"
#include "kernels/kernel.h"
#include "plan/plan.h"

namespace lace::cpu {

// All rows of a tensor that has `length` of them.
inline Extent all_rows(int64_t length) { return {0, static_cast<int32_t>(length), 0}; }

// Where the owners and the others of a plan are.
struct PlanExtents {
  Extent owners, others;
};
// Of batch element `element`; sequences as in ForwardArgs.
PlanExtents extents_of(const Plan& plan, const Sequence* sequences, int64_t element);

// Whether some owner of `tile` may lie in `extent`.
bool may_touch(const Plan& plan, const OwnerTile& tile, const Extent& extent);

// The rows of a tile's owners; those outside `extent` have no lane in use.
// Precondition: tile.owners.size() <= kTileOwners.
OwnerLanes owners_of(const Plan& plan, const OwnerTile& tile, const Extent& extent);

// Reads the live others of a tile, in the order of its runs, as batches. Rows outside `extent` and
// rows that no owner attends to are left out, and every batch but the last holds kBatchOthers
// rows, whatever the sizes of the plan's tiles. Batches depend on the plan alone, not on
// instruction sets. `plan` and `tile` must outlive the reader.
class BatchReader {
 public:
  BatchReader() = default;
  BatchReader(const Plan& plan, const OwnerTile& tile, const OwnerLanes& owners,
              const Extent& extent);

  // Fills `batch` with the next rows; false, and an empty batch, at the end.
  bool next(OtherBatch& batch);

 private:
  // Adds to `batch` what fits of elements [inner_, end) of the run's current tile, whose element 0
  // is in row `first`. words: the mask of element 0 and on, `stride` apart, or null.
  void read(OtherBatch& batch, int64_t first, int64_t end, const uint64_t* words, int64_t stride);
  void cut(OtherBatch& batch) const;

  const Plan* plan_ = nullptr;
  Extent extent_;
  uint64_t owner_rows_ = 0;
  bool partial_ = false;  // some pair of the batch so far is dead
  int32_t run_ = 0, run_end_ = 0, tile_ = 0, outer_ = 0;
  int64_t inner_ = 0;
};

// Streams the batches of `tile` through body(batch, next): `next` is the batch after it (for
// prefetching), null at the last.
void for_each_batch(const Plan& plan, const OwnerTile& tile, const OwnerLanes& owners,
                    const Extent& extent,
                    FunctionRef<void(const OtherBatch& batch, const OtherBatch* next)> body);

// Pairs of `tile` in whole tiles of others, of those that begin before `others_end`: its share of
// the work, for balancing.
int64_t tile_work(const Plan& plan, const OwnerTile& tile, int64_t others_end);

}  // namespace lace::cpu
