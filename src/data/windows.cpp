#include <algorithm>
#include <numeric>

#include "lace/data.h"

#include "data/random.h"

namespace lace {
namespace {

enum Stream : uint64_t { kOffset = 0x6f66, kShuffle = 0x7368 };  // of the generator

}  // namespace

WindowSampler::WindowSampler(int64_t stream_size, int64_t window, uint64_t seed, bool aligned)
    : size_(stream_size), window_(window), seed_(seed), aligned_(aligned) {
  LACE_CHECK(window >= 1, "[data] a window needs at least 1 byte, got ", window);
  LACE_CHECK(stream_size >= window, "[data] a window of ", window,
             " bytes does not fit into a stream of ", stream_size);
  // The count that every offset in [0, window) allows, so that epochs are of one length.
  windows_ = aligned ? size_ / window_ : std::max<int64_t>(1, (size_ - window_ + 1) / window_);
}

int64_t WindowSampler::begin(int64_t index) {
  LACE_CHECK(index >= 0, "[data] a window's index is at least 0, got ", index);
  const int64_t epoch = index / windows_;
  if (epoch != epoch_) shuffle_epoch(epoch);
  return offset_ + order_[static_cast<size_t>(index % windows_)] * window_;
}

void WindowSampler::shuffle_epoch(int64_t epoch) {
  const auto e = static_cast<uint64_t>(epoch);
  const int64_t offsets = aligned_ ? 1 : std::min(window_, size_ - windows_ * window_ + 1);
  offset_ = random_below(random_bits(seed_, kOffset, e), offsets);
  order_.resize(static_cast<size_t>(windows_));
  std::iota(order_.begin(), order_.end(), int64_t{0});
  const uint64_t epoch_seed = random_bits(seed_, kShuffle, e);
  for (int64_t i = windows_ - 1; i > 0; --i) {
    const int64_t j = random_below(random_bits(epoch_seed, 0, static_cast<uint64_t>(i)), i + 1);
    std::swap(order_[static_cast<size_t>(i)], order_[static_cast<size_t>(j)]);
  }
  epoch_ = epoch;
}

}  // namespace lace
