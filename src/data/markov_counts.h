#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lace {

// What follows contexts of one length, at most 3 bytes: how often, and how many different bytes.
// The bytes before c are the lower bytes of `history`, the last one lowest. Memory grows with the
// distinct contexts and grams, not with the counts.
class MarkovCounts {
 public:
  explicit MarkovCounts(int context_bytes) : context_bytes_(context_bytes) {}

  // `byte` came `times` times, at least 1, after `history`. Not after finish().
  void add(uint32_t history, uint8_t byte, uint64_t times = 1);

  // Ends the counting.
  void finish();

  // The Witten–Bell probability of `byte` after `history`, where the shorter contexts say `lower`.
  double probability(uint32_t history, uint8_t byte, double lower) const;

 private:
  struct Slot {
    uint32_t key = 0;
    uint32_t types = 0;
    uint64_t count = 0;  // 0: free
  };

  // Slots by 32-bit key: open addressing, linear probing, at most half full.
  class Table {
   public:
    Slot& at(uint32_t key);
    const Slot& get(uint32_t key) const { return slots_[find(key)]; }  // free if there is none
    const std::vector<Slot>& slots() const { return slots_; }

   private:
    size_t find(uint32_t key) const;
    void grow();

    std::vector<Slot> slots_ = std::vector<Slot>(1 << 10);
    int shift_ = 64 - 10;
    size_t used_ = 0;
  };

  uint32_t context(uint32_t history) const {
    return history & ((uint32_t{1} << (8 * context_bytes_)) - 1);
  }

  int context_bytes_;
  Table grams_;     // context, byte
  Table contexts_;  // after finish()
};

}  // namespace lace
