#pragma once

#include <cstdint>
#include <vector>

#include <cuda_runtime_api.h>

#include "kernels/cuda/sm90/sets.h"
#include "kernels/cuda/sm90/size_classes.h"
#include "kernels/cuda/sm90/work.h"
#include "kernels/kernel.h"

namespace lace::sm90 {

// The items of sequences of a batch, whose lengths only the GPU knows: two small kernels list those
// tiles of the plan that meet a sequence, before the kernel that works on them. Long sequences come
// first, so that none stands alone at the end.

// Heads [head_begin, head_begin + heads) of Work::heads, of one group, worked on together.
struct WorkSection {
  int32_t group = 0, head_begin = 0, heads = 0;
};

// What a block takes at a time: a tile of owners for a head of a sequence.
struct alignas(16) SequenceItem {
  int32_t tile = 0;    // of Work::tiles
  int32_t head = 0;    // sequence · heads of the work + head
  int32_t tiles = 0;   // of others that meet the sequence; 0 where no owner does
  int32_t owners = 0;  // those that do (pack_range())
};

// Items that others join, and those that none does; of some units, or before one.
struct PhaseItems {
  int32_t joined = 0, last = 0;
};

// Device pointers to the arrays of a Work and to its sections.
struct SequenceTables {
  const WorkTile* tiles = nullptr;
  const WorkRun* runs = nullptr;
  const int32_t* offsets = nullptr;
  const WorkGroup* groups = nullptr;
  const WorkPass* passes = nullptr;
  const int32_t *firsts = nullptr, *lasts = nullptr, *heads = nullptr;
  const WorkSection* sections = nullptr;
  int32_t group_count = 0, pass_count = 0, head_count = 0, section_count = 0;
};

// Owners or others of the sequences.
struct SequenceSide {
  bool keys = false;
  int32_t length = 0;  // positions of the plan; none behind them counts
  LACE_HOST_DEVICE Extent of(const Sequence& sequence) const {
    Extent extent = keys ? sequence.k : sequence.q;
    if (extent.end > length) extent.end = length;
    return extent;
  }
};

struct SequenceLaunch {
  SequenceTables tables;
  const Sequence* sequences = nullptr;  // [batch]
  int32_t batch = 0;
  SequenceSide owners, others;
  // Results. A *unit* is a section of a sequence: unit rank · section_count + section.
  int32_t* ranked = nullptr;      // [batch]: the sequences, long ones first
  PhaseItems* before = nullptr;   // [batch · section_count + 1]: of the units before
  int32_t* waits = nullptr;       // [batch, pass_count]: tiles that a pass waits for, of a head
  SequenceItem* items = nullptr;  // as they are worked on
  int32_t* item_count = nullptr;
};

// Enqueues on `stream`.
void list_items(const SequenceLaunch& launch, cudaStream_t stream);

// Those of `work`, of at most `heads` heads.
std::vector<WorkSection> sections_of(const Work& work, int64_t heads);

// How many items `batch` sequences have at most, whose owners take `rows` rows together.
int64_t most_items(const Work& work, int64_t batch, int64_t rows);

// ---- what the kernels compute, on the host for tests

// How many of `values`, ascending, are less than `bound`.
LACE_HOST_DEVICE inline int32_t count_less(const int32_t* values, int32_t count, int32_t bound) {
  int32_t begin = 0;
  while (begin < count) {
    const int32_t middle = (begin + count) / 2;
    if (read(values + middle) < bound) {
      begin = middle + 1;
    } else {
      count = middle;
    }
  }
  return begin;
}

// Tiles of a pass that meet a sequence.
LACE_HOST_DEVICE inline int32_t count_tiles(const SequenceTables& tables, int32_t pass,
                                            const Extent& owners) {
  if (owners.begin >= owners.end) return 0;
  const WorkPass& p = tables.passes[pass];
  const int32_t count = p.tile_end - p.tile_begin;
  return count_less(tables.firsts + p.tile_begin, count, owners.end) -
         count_less(tables.lasts + p.tile_begin, count, owners.begin);
}

// Of a section of a sequence.
LACE_HOST_DEVICE inline PhaseItems count_items(const SequenceTables& tables,
                                               const WorkSection& section, const Extent& owners) {
  const WorkGroup& group = tables.groups[section.group];
  PhaseItems items;
  for (int32_t p = group.pass_begin; p < group.pass_end; ++p) {
    const int32_t count = count_tiles(tables, p, owners) * section.heads;
    (p + 1 < group.pass_end ? items.joined : items.last) += count;
  }
  return items;
}

// Units are worked on in batches of about so many items, of which first those come that others
// join; then those of the next batch, and then those that join this one's (as find_head_tile() has
// sections): what is waited for has long been begun.
constexpr int32_t kBatchItems = 1024;

// The first unit of the batch of `unit`, and of the one after it; at most `units`.
LACE_HOST_DEVICE inline int32_t batch_of(const PhaseItems& before) {
  return (before.joined + before.last) / kBatchItems;
}
LACE_HOST_DEVICE inline int32_t first_of_batch(const PhaseItems* before, int32_t units,
                                               int32_t batch) {
  int32_t begin = 0;
  while (begin < units) {
    const int32_t middle = (begin + units) / 2;
    if (batch_of(before[middle]) < batch) {
      begin = middle + 1;
    } else {
      units = middle;
    }
  }
  return begin;
}

// Where the items of a unit begin.
LACE_HOST_DEVICE inline PhaseItems start_of_unit(const PhaseItems* before, int32_t units,
                                                 int32_t unit) {
  const int32_t own = batch_of(before[unit]);
  const int32_t first = first_of_batch(before, units, own);
  const int32_t previous =
      first == 0 ? 0 : first_of_batch(before, units, batch_of(before[first - 1]));
  const int32_t next = first_of_batch(before, units, own + 1);
  const int32_t after =
      next == units ? units : first_of_batch(before, units, batch_of(before[next]) + 1);
  return {before[unit].joined + before[previous].last, before[after].joined + before[unit].last};
}

// An item but for its head, of which `owners` and `others` are the sequence's.
LACE_HOST_DEVICE inline SequenceItem make_item(const SequenceTables& tables, int32_t tile,
                                               const Extent& owners, const Extent& others) {
  const WorkTile& t = tables.tiles[tile];
  SequenceItem item;
  item.tile = tile;
  item.owners = range_between(t.owners, tables.offsets, 0, owners.begin, owners.end);
  if (range_begin(item.owners) >= range_end(item.owners)) return item;
  for (int32_t r = t.run_begin; r < t.run_end; ++r) {
    const TileRange range = tiles_between(tables.runs[r], tables.offsets, others.begin, others.end);
    item.tiles += range.end - range.begin;
  }
  return item;
}

LACE_HOST_DEVICE inline int32_t length_class(const Extent& owners, const Extent& others) {
  const int32_t a = owners.end - owners.begin, b = others.end - others.begin;
  return size_class(a > b ? a : b);
}

}  // namespace lace::sm90
