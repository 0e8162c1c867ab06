#include "kernels/cuda/sm90/uploaded_work.h"

#include <algorithm>

#include "lace/error.h"

#include "kernels/cuda/section_order.h"

namespace lace::sm90 {
namespace {

// Tiles of others of an item, on average, up to which blocks take several items ahead, so that what
// describes them and their first loads are there in time.
constexpr int64_t kTakesAheadUpTo = 6;

// The items of launches of one batch and section, on the GPU.
struct UploadedOrder {
  const WorkItem* items = nullptr;
};

}  // namespace

const UploadedWork& uploaded_work(const cuda::UploadedPlan& uploaded, const Plan& plan,
                                  int64_t heads_per_item, cudaStream_t stream) {
  const auto make = [&](UploadedWork& made, cuda::DevicePacker& packer) {
    made.work = make_work(plan, heads_per_item);
    packer.add(made.work.tiles, &made.tables.tiles);
    packer.add(made.work.runs, &made.tables.runs);
    packer.add(made.work.mask_ids, &made.tables.mask_ids);
    packer.add(made.work.mask_rows, &made.tables.mask_rows);
    packer.add(made.work.offsets, &made.tables.offsets);
    packer.add(made.work.row_bits, &made.tables.row_bits);
  };
  return uploaded.table<UploadedWork>({heads_per_item}, stream, make);
}

size_t counter_count(const Work& work, int64_t batch) {
  return static_cast<size_t>(1 + batch * static_cast<int64_t>(work.heads.size()));
}

ItemQueue item_queue(const cuda::UploadedPlan& uploaded, const UploadedWork& of, int64_t batch,
                     int32_t section, int32_t* counters, cudaStream_t stream) {
  const Work& work = of.work;
  LACE_CHECK(work.items * batch <= INT32_MAX,
             "[attention] cuda_sm90 works on fewer than 2^31 tiles of all heads, got ", work.items,
             " for each of ", batch, " batch elements");
  std::vector<WorkItem> items;
  const auto make = [&](UploadedOrder& made, cuda::DevicePacker& packer) {
    items = order_items(work, batch, section);
    packer.add(items, &made.items);
  };
  ItemQueue queue;
  queue.work = of.tables;
  queue.order = uploaded.table<UploadedOrder>({work.members, batch, section}, stream, make).items;
  queue.next_item = counters;
  queue.done = counters + 1;
  queue.heads = static_cast<int32_t>(work.heads.size());
  queue.items = static_cast<int32_t>(work.items * batch);
  queue.joins = work.several_passes;
  queue.takes_ahead = work.tiles_of_others <= kTakesAheadUpTo * work.items;
  return queue;
}

int32_t section_of(const Work& work, int64_t batch, int64_t bytes_of_head, int64_t bytes) {
  const auto heads = static_cast<int64_t>(work.heads.size());
  return cuda::section_size(heads * batch, bytes_of_head, bytes, 2, work.longest,
                            work.tiles_of_others / heads);
}

int grid_of(const ItemQueue& queue, int blocks) {
  return std::min(queue.items, blocks * cuda::multiprocessors());
}

}  // namespace lace::sm90
