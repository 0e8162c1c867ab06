#include "kernels/cuda/sm90/uploaded_work.h"

#include <algorithm>

#include "lace/error.h"

#include "kernels/cuda/section_order.h"
#include "kernels/cuda/sm90/parts.h"

namespace lace::sm90 {
namespace {

// Tiles of others of an item, on average, up to which blocks take several items ahead, so that what
// describes them and their first loads are there in time.
constexpr int64_t kTakesAheadUpTo = 6;

// The items of launches of one batch and section, on the GPU.
struct UploadedOrder {
  const WorkItem* items = nullptr;
};

// What lists the items of sequences, in sections of one size.
struct UploadedSections {
  SequenceTables tables;
};

const SequenceTables& sequence_tables(const cuda::UploadedPlan& uploaded, const UploadedWork& of,
                                      int32_t section, cudaStream_t stream) {
  const Work& work = of.work;
  std::vector<WorkSection> sections;
  const auto make = [&](UploadedSections& made, cuda::DevicePacker& packer) {
    SequenceTables& tables = made.tables;
    sections = sections_of(work, section);
    packer.add(work.groups, &tables.groups);
    packer.add(work.passes, &tables.passes);
    packer.add(work.firsts, &tables.firsts);
    packer.add(work.lasts, &tables.lasts);
    packer.add(work.heads, &tables.heads);
    packer.add(sections, &tables.sections);
    tables.group_count = static_cast<int32_t>(work.groups.size());
    tables.pass_count = static_cast<int32_t>(work.passes.size());
    tables.head_count = static_cast<int32_t>(work.heads.size());
    tables.section_count = static_cast<int32_t>(sections.size());
  };
  return uploaded.table<UploadedSections>({work.variant(), section}, stream, make).tables;
}

}  // namespace

const UploadedWork& uploaded_work(const cuda::UploadedPlan& uploaded, const Plan& plan,
                                  int64_t heads_per_item, cudaStream_t stream, bool heads_apart) {
  const auto make = [&](UploadedWork& made, cuda::DevicePacker& packer) {
    made.work = make_work(plan, heads_per_item, heads_apart);
    packer.add(made.work.tiles, &made.tables.tiles);
    packer.add(made.work.runs, &made.tables.runs);
    packer.add(made.work.mask_ids, &made.tables.mask_ids);
    packer.add(made.work.mask_rows, &made.tables.mask_rows);
    packer.add(made.work.offsets, &made.tables.offsets);
    packer.add(made.work.row_bits, &made.tables.row_bits);
  };
  return uploaded.table<UploadedWork>({heads_per_item, heads_apart}, stream, make);
}

size_t counter_count(const Work& work, int64_t batch) {
  return static_cast<size_t>(1 + batch * static_cast<int64_t>(work.heads.size()));
}

ItemQueue item_queue(const cuda::UploadedPlan& uploaded, const UploadedWork& of,
                     const WorkTables& tables, const Plan& plan, int64_t batch, int32_t section,
                     int32_t* counters, cudaStream_t stream) {
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
  queue.work = tables;
  queue.order = uploaded.table<UploadedOrder>({work.variant(), batch, section}, stream, make).items;
  queue.next_item = counters;
  queue.done = counters + 1;
  queue.heads = static_cast<int32_t>(work.heads.size());
  queue.items = static_cast<int32_t>(work.items * batch);
  queue.owner_len = static_cast<int32_t>(plan.owner_len);
  queue.other_len = static_cast<int32_t>(plan.other_len);
  queue.joins = work.several_passes;
  queue.takes_ahead = work.tiles_of_others <= kTakesAheadUpTo * work.items;
  return queue;
}

ItemQueue sequence_queue(const Context& context, const cuda::UploadedPlan& uploaded,
                         const UploadedWork& of, const WorkTables& tables, const Plan& plan,
                         const AttentionShape& shape, const Sequence* sequences, bool by_keys,
                         int32_t section, int32_t* counters, Workspace& memory) {
  const auto stream = static_cast<cudaStream_t>(context.stream);
  const Work& work = of.work;
  SequenceLaunch launch;
  launch.tables = sequence_tables(uploaded, of, section, stream);
  launch.tables.tiles = tables.tiles;
  launch.tables.runs = tables.runs;
  launch.tables.offsets = tables.offsets;
  launch.sequences = sequences;
  launch.batch = static_cast<int32_t>(shape.batch);
  launch.owners = {by_keys, static_cast<int32_t>(plan.owner_len)};
  launch.others = {!by_keys, static_cast<int32_t>(plan.other_len)};
  const int64_t units = shape.batch * launch.tables.section_count;
  const int64_t rows = shape.batch_in_memory() * (by_keys ? shape.k_len : shape.q_len);
  const int64_t items = most_items(work, shape.batch, rows);
  LACE_CHECK(items <= INT32_MAX, "[attention] cuda_sm90 works on fewer than 2^31 tiles of all ",
             "sequences, got ", items);
  Parts parts;
  const size_t item_at = parts.add<SequenceItem>(items);
  const size_t before_at = parts.add<PhaseItems>(units + 1);
  const size_t ranked_at = parts.add<int32_t>(shape.batch);
  const size_t waits_at = parts.add<int32_t>(shape.batch * launch.tables.pass_count);
  const size_t count_at = parts.add<int32_t>(1);
  memory = context.allocate(parts.bytes());
  launch.items = reinterpret_cast<SequenceItem*>(memory.get() + item_at);
  launch.before = reinterpret_cast<PhaseItems*>(memory.get() + before_at);
  launch.ranked = reinterpret_cast<int32_t*>(memory.get() + ranked_at);
  launch.waits = reinterpret_cast<int32_t*>(memory.get() + waits_at);
  launch.item_count = reinterpret_cast<int32_t*>(memory.get() + count_at);
  list_items(launch, stream);

  ItemQueue queue;
  queue.work = tables;
  queue.of_sequences = {
      launch.items,  launch.item_count,        launch.waits, sequences, launch.owners,
      launch.others, launch.tables.pass_count, shape.packed};
  queue.next_item = counters;
  queue.done = counters + 1;
  queue.heads = launch.tables.head_count;
  queue.items = static_cast<int32_t>(items);
  queue.owner_len = launch.owners.length;
  queue.other_len = launch.others.length;
  queue.joins = work.several_passes;
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
