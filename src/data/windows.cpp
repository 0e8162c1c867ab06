#include <algorithm>

#include "lace/data.h"

#include "data/random.h"
#include "data/shuffle.h"

namespace lace {
namespace {

enum Stream : uint64_t { kOffset = 0x6f66, kShuffle = 0x7368 };  // of the generator

}  // namespace

WindowSampler::WindowSampler(const DataSplit& split, int64_t window, uint64_t seed, bool aligned)
    : window_(window), seed_(seed), aligned_(aligned) {
  LACE_CHECK(window >= 1, "[data] a window needs at least 1 byte, got ", window);
  int64_t longest = 0;
  for (int64_t i = 0; i < split.pieces(); ++i) {
    const int64_t begin = split.piece_begin(i), size = split.piece_end(i) - begin;
    longest = std::max(longest, size);
    add_piece(begin, size, static_cast<uint64_t>(i));
  }
  check_fits(longest, split.pieces());
}

WindowSampler::WindowSampler(int64_t stream_size, int64_t window, uint64_t seed, bool aligned)
    : window_(window), seed_(seed), aligned_(aligned) {
  LACE_CHECK(window >= 1, "[data] a window needs at least 1 byte, got ", window);
  add_piece(0, stream_size, 0);
  check_fits(stream_size, 1);
}

void WindowSampler::add_piece(int64_t begin, int64_t size, uint64_t number) {
  if (size < window_) return;
  // The count that every offset in [0, window) allows, so that epochs are of one length.
  const int64_t windows =
      aligned_ ? size / window_ : std::max<int64_t>(1, (size - window_ + 1) / window_);
  pieces_.push_back({begin, size, windows_, windows, number});
  windows_ += windows;
}

void WindowSampler::check_fits(int64_t size, int64_t pieces) const {
  if (windows_ > 0) return;
  throw Error(pieces > 1 ? concat("[data] a window of ", window_, " bytes fits into none of ",
                                  pieces, " pieces, of which the longest has ", size)
                         : concat("[data] a window of ", window_,
                                  " bytes does not fit into a stream of ", size));
}

int64_t WindowSampler::begin(int64_t index) const {
  LACE_CHECK(index >= 0, "[data] a window's index is at least 0, got ", index);
  const auto epoch = static_cast<uint64_t>(index / windows_);
  const Shuffle shuffle(windows_, random_bits(seed_, kShuffle, epoch));
  const int64_t window = shuffle(index % windows_);
  const auto after =
      std::upper_bound(pieces_.begin(), pieces_.end(), window,
                       [](int64_t w, const Piece& piece) { return w < piece.first; });
  const Piece& piece = *(after - 1);
  const int64_t offsets =
      aligned_ ? 1 : std::min(window_, piece.size - piece.windows * window_ + 1);
  const uint64_t bits = random_bits(seed_, kOffset + (piece.number << 32), epoch);
  return piece.begin + random_below(bits, offsets) + (window - piece.first) * window_;
}

std::vector<int64_t> spread_windows(const DataSplit& split, int64_t window, int64_t most) {
  LACE_CHECK(window >= 1, "[data] a window needs at least 1 byte, got ", window);
  int64_t available = 0;
  for (int64_t i = 0; i < split.pieces(); ++i)
    available += (split.piece_end(i) - split.piece_begin(i)) / window;
  const int64_t count = std::min(available, most);
  std::vector<int64_t> begins;
  int64_t piece = 0, before = 0;  // windows of the pieces before this one
  for (int64_t i = 0; i < count; ++i) {
    const auto wanted = static_cast<int64_t>(static_cast<__int128>(i) * available / count);
    for (;;) {
      const int64_t begin = split.piece_begin(piece);
      const int64_t own = (split.piece_end(piece) - begin) / window;
      if (wanted < before + own) {
        begins.push_back(begin + (wanted - before) * window);
        break;
      }
      before += own;
      ++piece;
    }
  }
  return begins;
}

}  // namespace lace
