#include "train/data_fingerprint.h"

#include <gtest/gtest.h>

namespace lace::train {
namespace {

std::vector<uint8_t> bytes(size_t count) {
  std::vector<uint8_t> result(count);
  for (size_t i = 0; i < count; ++i) result[i] = static_cast<uint8_t>(i * 2654435761u >> 13);
  return result;
}

Dataset data_of(std::vector<uint8_t> train) {
  Dataset data;
  data.train = ByteStream(std::move(train));
  data.validation = ByteStream(bytes(100));
  data.files = 2;
  return data;
}

TEST(DataFingerprint, IsAFunctionOfTheBytes) {
  const auto a = data_fingerprint(data_of(bytes(5000)));
  EXPECT_EQ(a, data_fingerprint(data_of(bytes(5000))));
  EXPECT_EQ(a.at("train").at("bytes"), 5000);
  EXPECT_EQ(a.at("test").at("bytes"), 0);
  EXPECT_EQ(fingerprint_difference(a, nlohmann::json::parse(a.dump())), "");
  // Pieces do not matter.
  Dataset pieces = data_of({});
  for (int64_t begin = 0; begin < 5000; begin += 1250) {
    pieces.train.bytes.append(ByteStream(bytes(5000)).slice(begin, begin + 1250));
  }
  EXPECT_EQ(a, data_fingerprint(pieces));
}

TEST(DataFingerprint, EveryByteOfSmallSplitsCounts) {
  for (const size_t size : {1u, 4096u, 4097u, 1u << 20}) {
    const auto before = data_fingerprint(data_of(bytes(size)));
    for (const size_t place : {size_t{0}, size / 2, size - 1}) {
      auto changed = bytes(size);
      changed[place] ^= 1;
      const auto now = data_fingerprint(data_of(changed));
      EXPECT_EQ(fingerprint_difference(before, now), "train has as many bytes, but others")
          << size << " " << place;
    }
  }
}

TEST(DataFingerprint, ChangesOfTwo256thsOfLargeSplitsAreSeen) {
  constexpr size_t kSize = (5u << 20) + 123;
  const auto before = data_fingerprint(data_of(bytes(kSize)));
  constexpr size_t kChanged = 2 * (kSize / 256);
  for (size_t begin = 0; begin + kChanged <= kSize; begin += kSize / 7) {
    auto changed = bytes(kSize);
    for (size_t i = 0; i < kChanged; ++i) changed[begin + i] ^= 0x80;
    EXPECT_NE(data_fingerprint(data_of(changed)), before) << begin;
  }
}

TEST(DataFingerprint, DifferencesAreNamed) {
  const auto before = data_fingerprint(data_of(bytes(5000)));
  Dataset other = data_of(bytes(5001));
  other.validation = ByteStream(std::vector<uint8_t>(100, 7));
  other.files = 3;
  EXPECT_EQ(fingerprint_difference(before, data_fingerprint(other)),
            "train has 5001 bytes, had 5000; validation has as many bytes, but others; there are 3 "
            "files, were 2");
  EXPECT_NE(fingerprint_difference(nlohmann::json(7), before), "");
}

}  // namespace
}  // namespace lace::train
