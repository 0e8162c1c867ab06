#include <algorithm>
#include <cmath>

#include "lace/data.h"

#include "data/markov_counts.h"

namespace lace {
namespace {

constexpr int kMaxOrder = 3;  // a gram of order 3 fills 32 bits

// Calls visit(history, byte, order) for each byte of the stream: `order` is the longest context, of
// at most `max_order` bytes, that lies within the stream.
template <typename Visit>
void each_byte(const ByteStream& stream, int max_order, const Visit& visit) {
  uint32_t history = 0;
  int64_t position = 0;
  stream.each_chunk([&](std::span<const uint8_t> chunk) {
    for (const uint8_t byte : chunk) {
      visit(history, byte, static_cast<int>(std::min<int64_t>(position, max_order)));
      history = history << 8 | byte;
      ++position;
    }
  });
}

}  // namespace

std::vector<double> markov_bits_per_byte(const ByteStream& counted, const ByteStream& scored,
                                         int max_order) {
  LACE_CHECK(max_order >= 0 && max_order <= kMaxOrder, "[markov] order is 0 to 3, got ", max_order);
  LACE_CHECK(counted.size() > 0 && scored.size() > 0, "[markov] both streams need bytes, got ",
             counted.size(), " and ", scored.size());
  std::vector<MarkovCounts> orders;
  for (int k = 0; k <= max_order; ++k) orders.emplace_back(k);
  each_byte(counted, max_order, [&](uint32_t history, uint8_t byte, int order) {
    for (int k = 0; k <= order; ++k) orders[static_cast<size_t>(k)].add(history, byte);
  });
  for (MarkovCounts& order : orders) order.finish();

  std::vector<double> bits(orders.size(), 0.0);
  each_byte(scored, max_order, [&](uint32_t history, uint8_t byte, int order) {
    double p = 1.0 / 256;
    for (int k = 0; k <= max_order; ++k) {
      if (k <= order) p = orders[static_cast<size_t>(k)].probability(history, byte, p);
      bits[static_cast<size_t>(k)] -= std::log2(p);
    }
  });
  for (double& value : bits) value /= static_cast<double>(scored.size());
  return bits;
}

}  // namespace lace
