#include "pattern/cache_slots.h"

#include <algorithm>

namespace lace::pattern {
namespace {

constexpr int64_t kFar = int64_t{1} << 40;

// The slots of keys that are all of `area`, whose stretches lie side by side from `first_slot` on.
void append_area_slots(const KeyRun& area, int64_t first_slot, const KeyRun& keys, KeyRuns& to) {
  const auto slot = [&](int64_t key) {
    const int64_t stretch = area.count == 1 ? 0 : (key - area.first) / area.stride;
    return first_slot + stretch * area.width + key - area.begin(stretch);
  };
  const int64_t first = slot(keys.first);
  if (keys.count == 1) {
    to.push_back(make_run(first, keys.width));
  } else if (slot(keys.end() - 1) - first == keys.end() - 1 - keys.first) {  // in one stretch
    to.push_back({first, keys.width, keys.count, keys.stride});
  } else if (keys.stride % area.stride == 0) {
    to.push_back(make_run(first, keys.width, keys.count, keys.stride / area.stride * area.width));
  } else {
    for (int64_t k = 0; k < keys.count; ++k) {
      to.push_back(make_run(slot(keys.begin(k)), keys.width));
    }
  }
}

}  // namespace

CacheSlots::CacheSlots(const Retained& retained, int64_t keys, int64_t rollback) {
  ring_ = retained.window > 0 ? retained.window + rollback : 0;
  window_ = retained.window;
  size_ = ring_;
  for (const auto& [first, last] : retained.tokens) {
    areas_.push_back({make_run(first, last + 1 - first), size_});
    size_ += last + 1 - first;
  }
  for (const auto& [length, first, width] : retained.columns) {
    if (first >= keys) continue;
    const int64_t count = (keys - first + length - 1) / length;
    areas_.push_back({make_run(first, width, count, length), size_});
    size_ += count * width;
  }
  all_ = retained.all || size_ >= keys;
  if (all_) {
    size_ = keys;
    areas_.clear();
  }
}

int64_t CacheSlots::used(int64_t position) const {
  if (all_) return position + 1;
  int64_t sum = std::min(ring_, position + 1);
  KeyRuns kept;
  for (const Area& area : areas_) append_clipped(area.keys, 0, position + 1, kept);
  return sum + key_count(kept);
}

void CacheSlots::append_writes(int64_t position, std::vector<int64_t>& slots) const {
  if (all_) return slots.push_back(position);
  if (ring_ > 0) slots.push_back(position % ring_);
  for (const auto& [keys, first_slot] : areas_) {
    KeyRuns own, at;
    append_clipped(keys, position, position + 1, own);
    if (own.empty()) continue;
    append_area_slots(keys, first_slot, own[0], at);
    slots.push_back(at[0].first);
  }
}

KeyRuns CacheSlots::slots_of(const KeyRuns& keys, int64_t position) const {
  if (all_) return keys;
  KeyRuns slots, in_ring, rest;
  const int64_t ring_begin = std::max<int64_t>(0, position - window_ + 1);
  for (const KeyRun& run : keys) {
    // What lies in one area is read there: side by side, also where the ring has a part of it.
    const auto area = std::find_if(areas_.begin(), areas_.end(), [&](const Area& candidate) {
      return difference({run}, {candidate.keys}).empty();
    });
    if (area != areas_.end()) {
      append_area_slots(area->keys, area->first_slot, run, slots);
      continue;
    }
    append_clipped(run, ring_begin, kFar, in_ring);
    append_clipped(run, -kFar, ring_begin, rest);
  }
  if (ring_ > 0) {
    // Keys of one lap lie side by side; a window is of two laps at most.
    for (int64_t lap = ring_begin / ring_; lap <= position / ring_; ++lap) {
      KeyRuns part;
      for (const KeyRun& run : in_ring) {
        append_clipped(run, lap * ring_, (lap + 1) * ring_, part);
      }
      for (KeyRun run : part) {
        run.first -= lap * ring_;
        slots.push_back(run);
      }
    }
  }
  for (const auto& [area, first_slot] : areas_) {
    if (rest.empty()) break;
    for (const KeyRun& run : intersection(rest, {area})) {
      append_area_slots(area, first_slot, run, slots);
    }
    rest = difference(rest, {area});
  }
  return slots;
}

}  // namespace lace::pattern
