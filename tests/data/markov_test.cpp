#include <cmath>
#include <string>

#include <gtest/gtest.h>

#include "lace/data.h"

namespace lace {
namespace {

ByteStream stream(const std::string& text) {
  return ByteStream(std::vector<uint8_t>(text.begin(), text.end()));
}

TEST(Markov, KnownTinyString) {
  // Counted on "abab": order 0 has a twice, b twice, 2 types; after a comes b twice, after b a
  // once.
  const std::vector<double> bits = markov_bits_per_byte(stream("abab"), stream("ab"), 1);
  const double p0 = (2 + 2 / 256.0) / (4 + 2);  // of a and of b
  const double b_after_a = (2 + 1 * p0) / (2 + 1);
  ASSERT_EQ(bits.size(), 2u);
  EXPECT_NEAR(bits[0], -std::log2(p0), 1e-12);
  EXPECT_NEAR(bits[1], -(std::log2(p0) + std::log2(b_after_a)) / 2, 1e-12);
}

TEST(Markov, UnseenContextsFallBack) {
  // z was never seen: the context z leaves order 0 as it is, and z itself costs its share of 2/258.
  const std::vector<double> bits = markov_bits_per_byte(stream("abab"), stream("za"), 3);
  const double z = (0 + 2 / 256.0) / 6, a = (2 + 2 / 256.0) / 6;
  for (double value : bits) EXPECT_NEAR(value, -(std::log2(z) + std::log2(a)) / 2, 1e-12);
}

TEST(Markov, PiecesDoNotMatterAndHigherOrdersLearnMore) {
  std::string text;
  for (int i = 0; i < 4000; ++i) text += "the quick brown fox "[(i * i / 3 + i) % 20];
  const ByteStream whole = stream(text);
  ByteStream pieces;
  for (int64_t i = 0; i < whole.size(); i += 1000) {
    const ByteStream part = whole.slice(i, i + 1000);
    pieces.append(part.pieces()[0], std::make_shared<ByteStream>(part));
  }
  const std::vector<double> bits = markov_bits_per_byte(whole, whole);
  EXPECT_EQ(bits, markov_bits_per_byte(pieces, pieces));
  ASSERT_EQ(bits.size(), 4u);
  for (size_t k = 1; k < bits.size(); ++k) EXPECT_LT(bits[k], bits[k - 1]);
  EXPECT_THROW(markov_bits_per_byte(whole, whole, 4), Error);
  EXPECT_THROW(markov_bits_per_byte(whole, ByteStream()), Error);
}

}  // namespace
}  // namespace lace
