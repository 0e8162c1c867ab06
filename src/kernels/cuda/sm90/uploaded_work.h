#pragma once

#include <cuda_runtime_api.h>

#include "core/context.h"
#include "kernels/cuda/device_plan.h"
#include "kernels/cuda/sm90/sequence_items.h"
#include "kernels/cuda/sm90/work.h"

namespace lace::sm90 {

// Device pointers to the arrays of a Work.
struct WorkTables {
  const WorkTile* tiles = nullptr;
  const WorkRun* runs = nullptr;
  const int32_t* mask_ids = nullptr;
  const uint32_t* mask_rows = nullptr;
  const int32_t* offsets = nullptr;
  const uint32_t* row_bits = nullptr;
};

// Where the sequences of a launch stand, and their items (sequence_items.h).
struct SequenceQueue {
  const SequenceItem* items = nullptr;
  const int32_t* item_count = nullptr;
  const int32_t* waits = nullptr;       // [batch, passes]
  const Sequence* sequences = nullptr;  // [batch]
  SequenceSide owners, others;
  int32_t passes = 0;
  bool packed = false;
};

// The items of a launch: every tile of owners of every head and batch, or those that meet its
// sequences.
struct ItemQueue {
  WorkTables work;
  const WorkItem* order = nullptr;  // the items as they are worked on; null with sequences
  SequenceQueue of_sequences;
  int32_t* next_item = nullptr;
  int32_t* done = nullptr;  // [batch, heads]: items finished that others may wait for
  int32_t heads = 0;
  int32_t items = 0;                     // with sequences at most
  int32_t owner_len = 0, other_len = 0;  // of the plan
  __host__ __device__ bool has_sequences() const { return of_sequences.items != nullptr; }
  // Blocks take items from next_item: as many ahead as they have room for, or the next one when all
  // loads of the one before are under way.
  bool takes_ahead = false;
  bool joins = false;  // passes join what others left
};

// The work of a plan on one GPU.
struct UploadedWork {
  Work work;
  WorkTables tables;
};

// The work of `plan` for items of up to `heads_per_item` heads, its heads apart or not (work.h),
// made and uploaded at the first call as device_plan.h tells. Valid as long as `uploaded`, which is
// `plan` on the current device.
const UploadedWork& uploaded_work(const cuda::UploadedPlan& uploaded, const Plan& plan,
                                  int64_t heads_per_item, cudaStream_t stream,
                                  bool heads_apart = false);

// How many int32 counters a launch needs, all 0 at its start.
size_t counter_count(const Work& work, int64_t batch);

// The items of a launch of `of`, which is of `uploaded`, in sections of `section` heads
// (order_items): their order is uploaded at the first call with this batch and section, and kept.
// tables: those of `of`, or those that live_tables() wrote from them.
ItemQueue item_queue(const cuda::UploadedPlan& uploaded, const UploadedWork& of,
                     const WorkTables& tables, const Plan& plan, int64_t batch, int32_t section,
                     int32_t* counters, cudaStream_t stream);

// The items of the sequences of `shape`, whose owners take `owner_rows` rows of a batch element in
// memory; sections are of at most `section` heads. Enqueues what lists them, in `memory`.
// tables: as item_queue() has them; by_keys: owners are keys.
ItemQueue sequence_queue(const Context& context, const cuda::UploadedPlan& uploaded,
                         const UploadedWork& of, const WorkTables& tables, const Plan& plan,
                         const AttentionShape& shape, const Sequence* sequences, bool by_keys,
                         int32_t section, int32_t* counters, Workspace& memory);

// How many heads of the batch shall be worked on together: as many as leave `bytes_of_head` each in
// `bytes`, and enough that the longest item of the last ones does not stand alone at the end.
int32_t section_of(const Work& work, int64_t batch, int64_t bytes_of_head, int64_t bytes);

// `blocks` for each of as many multiprocessors as the current device has, or fewer.
int grid_of(const ItemQueue& queue, int blocks = 1);

}  // namespace lace::sm90
