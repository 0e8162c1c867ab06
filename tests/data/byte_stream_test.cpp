#include <limits>
#include <string>

#include <gtest/gtest.h>

#include "lace/data.h"

namespace lace {
namespace {

// Any number of bytes: the byte at o is 37 o mod 251.
class Endless : public ByteSource {
 public:
  static uint8_t at(int64_t offset) { return static_cast<uint8_t>(37 * (offset % 251) % 251); }
  void read(int64_t offset, std::span<uint8_t> out) const override {
    for (size_t i = 0; i < out.size(); ++i) out[i] = at(offset + static_cast<int64_t>(i));
  }
};

TEST(ByteStream, ReadsAndSlicesAcrossPieces) {
  ByteStream stream({1, 2, 3});
  stream.append(ByteStream({4, 5}));
  stream.append(ByteStream());
  EXPECT_EQ(stream.size(), 5);
  std::vector<uint8_t> out(3);
  stream.read(2, out);
  EXPECT_EQ(out, (std::vector<uint8_t>{3, 4, 5}));
  const ByteStream part = stream.slice(1, 4);
  EXPECT_EQ(part.size(), 3);
  part.read(0, out);
  EXPECT_EQ(out, (std::vector<uint8_t>{2, 3, 4}));
  EXPECT_THROW(stream.read(3, out), Error);
  EXPECT_THROW(stream.read(-1, out), Error);
  EXPECT_THROW(stream.read(std::numeric_limits<int64_t>::max(), out), Error);
  EXPECT_THROW(stream.slice(4, 6), Error);
  stream.append(stream);
  EXPECT_EQ(stream.size(), 10);
  stream.read(4, out);
  EXPECT_EQ(out, (std::vector<uint8_t>{5, 1, 2}));
}

TEST(ByteStream, ChunksAreAllBytesInOrder) {
  const auto source = std::make_shared<Endless>();
  ByteStream stream;
  stream.append(source, 5, 5 + ByteStream::kChunk + 17);
  stream.append(source, 0, ByteStream::kChunk);
  std::vector<uint8_t> all(static_cast<size_t>(stream.size())), chunks;
  stream.read(0, all);
  stream.each_chunk([&](std::span<const uint8_t> chunk) {
    EXPECT_LE(static_cast<int64_t>(chunk.size()), ByteStream::kChunk);
    chunks.insert(chunks.end(), chunk.begin(), chunk.end());
  });
  EXPECT_TRUE(chunks == all);
  ByteStream().each_chunk([](std::span<const uint8_t>) { ADD_FAILURE(); });
}

TEST(ByteStream, SizesUpTo63Bits) {
  const auto source = std::make_shared<Endless>();
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  ByteStream stream;
  stream.append(source, 0, kMost - 10);
  EXPECT_THROW(stream.append(source, 0, 11), Error);
  stream.append(source, 3, 13);
  EXPECT_EQ(stream.size(), kMost);
  std::vector<uint8_t> out(20);
  stream.read(kMost - 20, out);
  EXPECT_EQ(out[0], Endless::at(kMost - 20));
  EXPECT_EQ(out[10], Endless::at(3));
  EXPECT_THROW(stream.append(source, 4, 3), Error);
}

}  // namespace
}  // namespace lace
