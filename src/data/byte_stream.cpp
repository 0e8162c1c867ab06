#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "lace/data.h"

namespace lace {
namespace {

class MemorySource : public ByteSource {
 public:
  explicit MemorySource(std::vector<uint8_t> bytes) : bytes_(std::move(bytes)) {}
  void read(int64_t offset, std::span<uint8_t> out) const override {
    std::memcpy(out.data(), bytes_.data() + offset, out.size());
  }

 private:
  std::vector<uint8_t> bytes_;
};

}  // namespace

ByteStream::ByteStream(std::vector<uint8_t> bytes) {
  const auto size = static_cast<int64_t>(bytes.size());
  append(std::make_shared<MemorySource>(std::move(bytes)), 0, size);
}

void ByteStream::append(std::shared_ptr<const ByteSource> source, int64_t begin, int64_t end) {
  LACE_CHECK(0 <= begin && begin <= end, "[data] a part of a source begins at 0 or later and ends ",
             "no earlier than that, got ", begin, " to ", end);
  LACE_CHECK(end - begin <= std::numeric_limits<int64_t>::max() - size_,
             "[data] a stream holds less than 2^63 bytes, got ", size_, " and ", end - begin,
             " more");
  if (begin == end) return;
  const bool goes_on = !pieces_.empty() && pieces_.back().source == source &&
                       pieces_.back().begin + size_ - pieces_.back().start == begin;
  if (!goes_on) pieces_.push_back({std::move(source), begin, size_});
  size_ += end - begin;
}

void ByteStream::append(const ByteStream& more) {
  const std::vector<Piece> added = more.pieces_;  // `more` may be this stream
  const int64_t total = more.size_;
  for (size_t i = 0; i < added.size(); ++i) {
    const int64_t end = i + 1 < added.size() ? added[i + 1].start : total;
    append(added[i].source, added[i].begin, added[i].begin + end - added[i].start);
  }
}

size_t ByteStream::piece_at(int64_t offset) const {
  const auto after =
      std::upper_bound(pieces_.begin(), pieces_.end(), offset,
                       [](int64_t o, const Piece& piece) { return o < piece.start; });
  return static_cast<size_t>(after - pieces_.begin() - 1);
}

void ByteStream::read(int64_t offset, std::span<uint8_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  LACE_CHECK(offset >= 0 && offset <= size_ && count <= size_ - offset, "[data] ", count,
             " bytes from ", offset, " on are not within a stream of ", size_);
  if (count == 0) return;
  size_t piece = piece_at(offset);
  for (int64_t done = 0; done < count; ++piece) {
    const int64_t from = offset + done;
    const int64_t take = std::min(piece_end(piece) - from, count - done);
    const Piece& p = pieces_[piece];
    p.source->read(p.begin + from - p.start,
                   out.subspan(static_cast<size_t>(done), static_cast<size_t>(take)));
    done += take;
  }
}

void ByteStream::each_chunk(const std::function<void(std::span<const uint8_t>)>& take) const {
  std::vector<uint8_t> chunk(static_cast<size_t>(std::min(kChunk, size_)));
  for (int64_t begin = 0; begin < size_; begin += kChunk) {
    chunk.resize(static_cast<size_t>(std::min(kChunk, size_ - begin)));
    read(begin, chunk);
    take(chunk);
  }
}

ByteStream ByteStream::slice(int64_t begin, int64_t end) const {
  LACE_CHECK(0 <= begin && begin <= end && end <= size_, "[data] slice ", begin, " to ", end,
             " is not within a stream of ", size_);
  ByteStream result;
  if (begin == end) return result;
  for (size_t i = piece_at(begin); i < pieces_.size() && pieces_[i].start < end; ++i) {
    const Piece& piece = pieces_[i];
    const int64_t first = std::max(begin, piece.start), last = std::min(end, piece_end(i));
    result.append(piece.source, piece.begin + first - piece.start,
                  piece.begin + last - piece.start);
  }
  return result;
}

}  // namespace lace
