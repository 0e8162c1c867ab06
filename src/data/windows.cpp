#include <algorithm>

#include "lace/data.h"

#include "data/random.h"
#include "data/shuffle.h"

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

int64_t WindowSampler::begin(int64_t index) const {
  LACE_CHECK(index >= 0, "[data] a window's index is at least 0, got ", index);
  const auto epoch = static_cast<uint64_t>(index / windows_);
  const int64_t offsets = aligned_ ? 1 : std::min(window_, size_ - windows_ * window_ + 1);
  const int64_t offset = random_below(random_bits(seed_, kOffset, epoch), offsets);
  const Shuffle shuffle(windows_, random_bits(seed_, kShuffle, epoch));
  return offset + shuffle(index % windows_) * window_;
}

}  // namespace lace
