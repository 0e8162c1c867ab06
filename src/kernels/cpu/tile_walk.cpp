#include "kernels/cpu/tile_walk.h"

#include <algorithm>
#include <bit>

namespace lace::cpu {
namespace {

constexpr uint64_t kGranuleBits = (uint64_t{1} << kGranule) - 1;
constexpr int kSegmentRows = 8;

// Cuts a batch into segments of rows whose live owners lie in the same granules.
void cut_segments(OtherBatch& batch, uint64_t owner_rows) {
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

// The mask of tile t of `run`, null if every pair is live.
const Mask* mask_of(const Plan& plan, const Run& run, int32_t t) {
  if (run.mask_cycle == 0) return nullptr;
  const int32_t id = plan.mask_ids[static_cast<size_t>(run.mask_begin + t % run.mask_cycle)];
  return id < 0 ? nullptr : &plan.masks[static_cast<size_t>(id)];
}

}  // namespace

PlanExtents extents_of(const Plan& plan, const Sequence* sequences, int64_t element) {
  if (sequences == nullptr) return {all_rows(plan.owner_len), all_rows(plan.other_len)};
  const Sequence& sequence = sequences[element];
  return plan.transposed ? PlanExtents{sequence.k, sequence.q}
                         : PlanExtents{sequence.q, sequence.k};
}

bool may_touch(const Plan& plan, const OwnerTile& tile, const Extent& extent) {
  const IndexSet& owners = tile.owners;
  return owners.first < extent.end &&
         plan.position(owners, owners.outer - 1, owners.inner - 1) >= extent.begin;
}

OwnerLanes owners_of(const Plan& plan, const OwnerTile& tile, const Extent& extent) {
  OwnerLanes owners;
  int e = 0;
  for (int32_t o = 0; o < tile.owners.outer; o++) {
    const int64_t first = plan.position(tile.owners, o, 0);
    for (int32_t i = 0; i < tile.owners.inner; i++, e++) {
      const bool inside = first + i >= extent.begin && first + i < extent.end;
      owners.positions[e] = inside ? first + i + extent.row : -1;
      if (inside) {
        owners.rows |= uint64_t{1} << e;
        owners.count = e + 1;
      }
    }
  }
  return owners;
}

BatchReader::BatchReader(const Plan& plan, const OwnerTile& tile, const OwnerLanes& owners,
                         const Extent& extent)
    : plan_(&plan),
      extent_(extent),
      owner_rows_(owners.rows),
      run_(tile.run_begin),
      run_end_(owners.rows == 0 ? tile.run_begin : tile.run_end) {}

bool BatchReader::next(OtherBatch& batch) {
  batch.count = 0;
  partial_ = false;
  for (; run_ < run_end_; run_++, tile_ = 0) {
    const Run& run = plan_->runs[static_cast<size_t>(run_)];
    for (; tile_ < run.tiles; tile_++, outer_ = 0) {
      if (run.others.first + tile_ * run.step >= extent_.end) break;  // as do all behind it
      const Mask* mask = mask_of(*plan_, run, tile_);
      for (; outer_ < run.others.outer; outer_++, inner_ = 0) {
        if (batch.count == kBatchOthers) {
          cut(batch);
          return true;
        }
        const int64_t first = plan_->position(run.others, outer_, 0) + tile_ * run.step;
        const int64_t end = std::min<int64_t>(run.others.inner, extent_.end - first);
        inner_ = std::max(inner_, extent_.begin - first);
        const int64_t stride = mask ? mask->words_per_other : 0;
        const uint64_t* words =
            mask ? mask->words.data() + outer_ * int64_t{run.others.inner} * stride : nullptr;
        read(batch, first + extent_.row, end, words, stride);
        if (inner_ < end) {
          cut(batch);
          return true;
        }
      }
    }
  }
  if (batch.count > 0) cut(batch);
  return batch.count > 0;
}

void BatchReader::read(OtherBatch& batch, int64_t first, int64_t end, const uint64_t* words,
                       int64_t stride) {
  int count = batch.count;
  while (inner_ < end && count < kBatchOthers) {
    const int64_t stop = std::min(end, inner_ + kBatchOthers - count);
    if (!words) {
      for (; inner_ < stop; inner_++, count++) {
        batch.positions[count] = first + inner_;
        batch.live[count] = owner_rows_;
      }
      continue;
    }
    for (; inner_ < stop; inner_++) {
      const uint64_t live = owner_rows_ & words[inner_ * stride];
      batch.positions[count] = first + inner_;
      batch.live[count] = live;
      count += live != 0;
      partial_ |= live != owner_rows_;
    }
  }
  batch.count = count;
}

void BatchReader::cut(OtherBatch& batch) const {
  if (partial_) {
    cut_segments(batch, owner_rows_);
    return;
  }
  const int granules = (63 - std::countl_zero(owner_rows_)) / kGranule + 1;
  batch.segments[0] = {0, static_cast<int16_t>(batch.count), 0, static_cast<int8_t>(granules),
                       false};
  batch.segment_count = 1;
}

void for_each_batch(const Plan& plan, const OwnerTile& tile, const OwnerLanes& owners,
                    const Extent& extent,
                    FunctionRef<void(const OtherBatch& batch, const OtherBatch* next)> body) {
  BatchReader reader(plan, tile, owners, extent);
  OtherBatch batches[2];
  int current = 0;
  bool more = reader.next(batches[0]);
  while (more) {
    more = reader.next(batches[current ^ 1]);
    body(batches[current], more ? &batches[current ^ 1] : nullptr);
    current ^= 1;
  }
}

int64_t tile_work(const Plan& plan, const OwnerTile& tile, int64_t others_end) {
  int64_t others = 0;
  for (int32_t index = tile.run_begin; index < tile.run_end; index++) {
    const Run& run = plan.runs[static_cast<size_t>(index)];
    const int64_t first = run.others.first, last = first + (run.tiles - 1) * run.step;
    int64_t tiles = run.tiles;
    if (last >= others_end)
      tiles = first < others_end ? (others_end - 1 - first) / run.step + 1 : 0;
    others += run.others.size() * tiles;
  }
  return others * tile.owners.size();
}

}  // namespace lace::cpu
