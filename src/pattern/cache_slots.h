#pragma once

#include <cstdint>
#include <vector>

#include "pattern/key_runs.h"
#include "pattern/retained.h"

namespace lace::pattern {

// Where the rows of keys lie in a cache that holds what Retained names and no more: first a ring of
// the last keys, then a place for each token, then columns, block after block. Where that is no
// less than all keys, a key's slot is its position.
class CacheSlots {
 public:
  // For keys [0, keys). The last `rollback` keys may be forgotten again, and others follow in their
  // place: the ring has as many slots more.
  CacheSlots(const Retained& retained, int64_t keys, int64_t rollback);

  int64_t size() const { return size_; }
  // How many slots, from the first on, rows of the first `keys` keys may lie in.
  int64_t extent(int64_t keys) const { return all_ ? keys : size_; }
  // Slots that hold something when the last key was `position`.
  int64_t used(int64_t position) const;

  // Adds the slots that the row of key `position` goes to; there may be none.
  void append_writes(int64_t position, std::vector<int64_t>& slots) const;

  // The slots of `keys`, all of which the query at `position` may attend to, in the form of runs.
  // The rows of `position` and all keys before it have been written, in ascending order, and at
  // most `rollback` after it.
  KeyRuns slots_of(const KeyRuns& keys, int64_t position) const;

 private:
  struct Area {
    KeyRun keys;  // all that may come
    int64_t first_slot = 0;
  };

  bool all_ = false;
  int64_t window_ = 0, ring_ = 0, size_ = 0;
  std::vector<Area> areas_;
};

}  // namespace lace::pattern
