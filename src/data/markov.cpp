#include <array>
#include <cmath>
#include <utility>

#include "lace/data.h"

namespace lace {
namespace {

constexpr int kMaxOrder = 3;  // an n-gram of order 3 fills 32 bits

// Counts by 32-bit key: open addressing, linear probing, at most half full.
class CountTable {
 public:
  struct Slot {
    uint32_t key = 0;
    uint32_t count = 0;  // 0: free
    uint32_t types = 0;
  };

  Slot& at(uint32_t key) {
    if (2 * (used_ + 1) > slots_.size()) grow();
    Slot& slot = slots_[find(key)];
    if (slot.count == 0) {
      slot.key = key;
      ++used_;
    }
    return slot;
  }

  Slot get(uint32_t key) const { return slots_[find(key)]; }
  const std::vector<Slot>& slots() const { return slots_; }

 private:
  size_t find(uint32_t key) const {
    size_t i = (key * 0x9e3779b97f4a7c15ull) >> shift_;
    while (slots_[i].count != 0 && slots_[i].key != key) i = (i + 1) & (slots_.size() - 1);
    return i;
  }

  void grow() {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    --shift_;
    for (const Slot& slot : old) {
      if (slot.count != 0) slots_[find(slot.key)] = slot;
    }
  }

  std::vector<Slot> slots_ = std::vector<Slot>(1 << 10);
  int shift_ = 64 - 10;
  size_t used_ = 0;
};

struct Order {
  CountTable grams;     // h c
  CountTable contexts;  // h
};

// The last `bytes` bytes of the history.
uint32_t tail(uint32_t history, int bytes) {
  return bytes == 4 ? history : history & ((1u << (8 * bytes)) - 1);
}

std::vector<Order> count_orders(const ByteStream& stream, int max_order) {
  std::vector<Order> orders(static_cast<size_t>(max_order + 1));
  uint32_t history = 0;
  int64_t position = 0;
  for (const auto piece : stream.pieces()) {
    for (const uint8_t byte : piece) {
      history = history << 8 | byte;
      for (int k = 0; k <= max_order && k <= position; ++k)
        ++orders[static_cast<size_t>(k)].grams.at(tail(history, k + 1)).count;
      ++position;
    }
  }
  for (Order& order : orders) {
    for (const CountTable::Slot& gram : order.grams.slots()) {
      if (gram.count == 0) continue;
      CountTable::Slot& context = order.contexts.at(gram.key >> 8);
      context.count += gram.count;
      ++context.types;
    }
  }
  return orders;
}

}  // namespace

std::vector<double> markov_bits_per_byte(const ByteStream& counted, const ByteStream& scored,
                                         int max_order) {
  LACE_CHECK(max_order >= 0 && max_order <= kMaxOrder, "[markov] order is 0 to 3, got ", max_order);
  LACE_CHECK(counted.size() > 0 && scored.size() > 0, "[markov] both streams need bytes, got ",
             counted.size(), " and ", scored.size());
  const std::vector<Order> orders = count_orders(counted, max_order);
  std::vector<double> bits(orders.size(), 0.0);
  uint32_t history = 0;
  int64_t position = 0;
  for (const auto piece : scored.pieces()) {
    for (const uint8_t byte : piece) {
      double p = 1.0 / 256;
      for (int k = 0; k <= max_order; ++k) {
        const Order& order = orders[static_cast<size_t>(k)];
        const CountTable::Slot context = order.contexts.get(tail(history, k));
        if (k <= position && context.count != 0) {
          const uint32_t gram = tail(history, k) << 8 | byte;
          p = (order.grams.get(gram).count + context.types * p) / (context.count + context.types);
        }
        bits[static_cast<size_t>(k)] -= std::log2(p);
      }
      history = history << 8 | byte;
      ++position;
    }
  }
  for (double& value : bits) value /= static_cast<double>(scored.size());
  return bits;
}

}  // namespace lace
