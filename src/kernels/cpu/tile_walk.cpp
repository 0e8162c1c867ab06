#include "kernels/cpu/tile_walk.h"

#include <algorithm>
#include <bit>

namespace lace::cpu {
namespace {

constexpr uint64_t kGranuleBits = (uint64_t{1} << kGranule) - 1;
constexpr int kSegmentRows = 8;

// Cuts a batch into segments of rows whose live owners lie in the same granules.
void cut_segments(Batch& batch, uint64_t owner_rows) {
  batch.segment_count = 0;
  for (int begin = 0; begin < batch.count; begin += kSegmentRows) {
    const int end = std::min(begin + kSegmentRows, batch.count);
    uint64_t any = 0, all = owner_rows;
    for (int r = begin; r < end; r++) {
      any |= batch.live[r];
      all &= batch.live[r];
    }
    Segment segment;
    segment.begin = static_cast<int16_t>(begin);
    segment.end = static_cast<int16_t>(end);
    segment.granule_begin = static_cast<int8_t>(std::countr_zero(any) / kGranule);
    segment.granule_end = static_cast<int8_t>((63 - std::countl_zero(any)) / kGranule + 1);
    uint64_t inside = 0;
    for (int g = segment.granule_begin; g < segment.granule_end; g++) {
      inside |= kGranuleBits << (g * kGranule);
    }
    segment.masked = (owner_rows & inside & ~all) != 0;
    Segment* last = batch.segment_count > 0 ? &batch.segments[batch.segment_count - 1] : nullptr;
    if (last && last->granule_begin == segment.granule_begin &&
        last->granule_end == segment.granule_end && last->masked == segment.masked) {
      last->end = segment.end;
    } else {
      batch.segments[batch.segment_count++] = segment;
    }
  }
}

// Gathers rows into batches and hands out each when the next one is complete.
class Gatherer {
 public:
  Gatherer(uint64_t owner_rows, FunctionRef<void(const Batch&, const Batch*)> body)
      : owner_rows_(owner_rows), body_(body) {}

  // A row that not every owner attends to.
  void add(int64_t position, uint64_t live) {
    Batch& batch = batches_[current_];
    full_ = false;
    batch.positions[batch.count] = position;
    batch.live[batch.count++] = live;
    if (batch.count == kBatchOthers) flush();
  }

  // Rows [position, end), which every owner attends to.
  void add_full(int64_t position, int64_t end) {
    while (position < end) {
      Batch& batch = batches_[current_];
      const int count =
          static_cast<int>(std::min<int64_t>(end - position, kBatchOthers - batch.count));
      for (int r = 0; r < count; r++) {
        batch.positions[batch.count + r] = position + r;
        batch.live[batch.count + r] = owner_rows_;
      }
      position += count;
      batch.count += count;
      if (batch.count == kBatchOthers) flush();
    }
  }

  void finish() {
    if (batches_[current_].count > 0) flush();
    if (pending_) body_(*pending_, nullptr);
  }

 private:
  void flush() {
    Batch& batch = batches_[current_];
    if (full_) {
      const int granules = (63 - std::countl_zero(owner_rows_)) / kGranule + 1;
      batch.segments[0] = {0, static_cast<int16_t>(batch.count), 0, static_cast<int8_t>(granules),
                           false};
      batch.segment_count = 1;
    } else {
      cut_segments(batch, owner_rows_);
    }
    full_ = true;
    if (pending_) body_(*pending_, &batch);
    pending_ = &batch;
    current_ ^= 1;
    batches_[current_].count = 0;
  }

  uint64_t owner_rows_;
  FunctionRef<void(const Batch&, const Batch*)> body_;
  Batch batches_[2];
  int current_ = 0;
  bool full_ = true;  // every pair of the current batch is live
  Batch* pending_ = nullptr;
};

// The mask of tile t of `run`, null if every pair is live.
const Mask* mask_of(const Plan& plan, const Run& run, int32_t t) {
  if (run.mask_cycle == 0) return nullptr;
  const int32_t id = plan.mask_ids[static_cast<size_t>(run.mask_begin + t % run.mask_cycle)];
  return id < 0 ? nullptr : &plan.masks[static_cast<size_t>(id)];
}

}  // namespace

Owners owners_of(const Plan& plan, const OwnerTile& tile) {
  Owners owners;
  int e = 0;
  for (int32_t o = 0; o < tile.owners.outer; o++) {
    const int64_t first = plan.position(tile.owners, o, 0);
    for (int32_t i = 0; i < tile.owners.inner; i++, e++) {
      const bool inside = first + i < plan.owner_len;
      owners.positions[e] = inside ? first + i : -1;
      if (inside) {
        owners.rows |= uint64_t{1} << e;
        owners.count = e + 1;
      }
    }
  }
  return owners;
}

void for_each_batch(const Plan& plan, const OwnerTile& tile, const Owners& owners,
                    FunctionRef<void(const Batch& batch, const Batch* next)> body) {
  if (owners.rows == 0) return;
  Gatherer gatherer(owners.rows, body);
  for (int32_t index = tile.run_begin; index < tile.run_end; index++) {
    const Run& run = plan.runs[static_cast<size_t>(index)];
    const int64_t inner = run.others.inner;
    for (int32_t t = 0; t < run.tiles; t++) {
      const Mask* mask = mask_of(plan, run, t);
      for (int32_t o = 0; o < run.others.outer; o++) {
        const int64_t first = plan.position(run.others, o, 0) + t * run.step;
        const int64_t count = std::min(inner, plan.other_len - first);
        if (!mask) {
          gatherer.add_full(first, first + count);
          continue;
        }
        for (int64_t i = 0; i < count; i++) {
          const int64_t word = (o * inner + i) * mask->words_per_other;
          const uint64_t live = owners.rows & mask->words[static_cast<size_t>(word)];
          if (live == owners.rows) {
            gatherer.add_full(first + i, first + i + 1);
          } else if (live != 0) {
            gatherer.add(first + i, live);
          }
        }
      }
    }
  }
  gatherer.finish();
}

int64_t tile_work(const Plan& plan, const OwnerTile& tile) {
  int64_t others = 0;
  for (int32_t index = tile.run_begin; index < tile.run_end; index++) {
    const Run& run = plan.runs[static_cast<size_t>(index)];
    others += run.others.size() * run.tiles;
  }
  return others * tile.owners.size();
}

}  // namespace lace::cpu
