#include "data/markov_counts.h"

#include "core/mix64.h"

namespace lace {

MarkovCounts::Slot& MarkovCounts::Table::at(uint32_t key) {
  if (2 * (used_ + 1) > slots_.size()) grow();
  Slot& slot = slots_[find(key)];
  if (slot.count == 0) {
    slot.key = key;
    ++used_;
  }
  return slot;
}

size_t MarkovCounts::Table::find(uint32_t key) const {
  size_t i = (key * kMix64Step) >> shift_;
  while (slots_[i].count != 0 && slots_[i].key != key) i = (i + 1) & (slots_.size() - 1);
  return i;
}

void MarkovCounts::Table::grow() {
  std::vector<Slot> old(slots_.size() * 2);
  old.swap(slots_);
  --shift_;
  for (const Slot& slot : old) {
    if (slot.count != 0) slots_[find(slot.key)] = slot;
  }
}

void MarkovCounts::add(uint32_t history, uint8_t byte, uint64_t times) {
  grams_.at(context(history) << 8 | byte).count += times;
}

void MarkovCounts::finish() {
  for (const Slot& gram : grams_.slots()) {
    if (gram.count == 0) continue;
    Slot& context = contexts_.at(gram.key >> 8);
    context.count += gram.count;
    ++context.types;
  }
}

double MarkovCounts::probability(uint32_t history, uint8_t byte, double lower) const {
  const Slot& seen = contexts_.get(context(history));
  if (seen.count == 0) return lower;
  const Slot& gram = grams_.get(context(history) << 8 | byte);
  return (static_cast<double>(gram.count) + seen.types * lower) /
         (static_cast<double>(seen.count) + seen.types);
}

}  // namespace lace
