#include <cmath>
#include <string>

#include <gtest/gtest.h>

#include "lace/data.h"

#include "data/markov_counts.h"

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
  for (int64_t i = 0; i < whole.size(); i += 1000) pieces.append(whole.slice(i, i + 1000));
  const std::vector<double> bits = markov_bits_per_byte(whole, whole);
  EXPECT_EQ(bits, markov_bits_per_byte(pieces, pieces));
  ASSERT_EQ(bits.size(), 4u);
  for (size_t k = 1; k < bits.size(); ++k) EXPECT_LT(bits[k], bits[k - 1]);
  EXPECT_THROW(markov_bits_per_byte(whole, whole, 4), Error);
  EXPECT_THROW(markov_bits_per_byte(whole, ByteStream()), Error);
}

TEST(MarkovCounts, CountsPass32Bits) {
  // As after 10 GB of "a", a third as many "b", and one "c", in every context of up to three bytes.
  constexpr uint64_t kTimes = 10'000'000'000;
  for (int context = 0; context <= 3; ++context) {
    MarkovCounts counts(context);
    for (const uint64_t times : {kTimes - 7, uint64_t{7}}) counts.add(0x616161, 'a', times);
    counts.add(0x616161, 'b', kTimes / 3);
    counts.add(0x616161, 'c');
    counts.finish();
    const double all = kTimes + kTimes / 3 + 1 + 3;
    EXPECT_NEAR(counts.probability(0x616161, 'a', 0.25), (kTimes + 0.75) / all, 1e-12);
    EXPECT_NEAR(counts.probability(0x616161, 'b', 0.25), (kTimes / 3 + 0.75) / all, 1e-12);
    EXPECT_NEAR(counts.probability(0x616161, 'c', 0.25), 1.75 / all, 1e-15);
    EXPECT_NEAR(counts.probability(0x616161, 'd', 0.25), 0.75 / all, 1e-15);
    if (context > 0) {
      EXPECT_EQ(counts.probability(0x626262, 'a', 0.25), 0.25);
    }
  }
}

TEST(MarkovCounts, ACountOfExactly32BitsIsNotNone) {
  MarkovCounts counts(1);
  counts.add('x', 'y', uint64_t{1} << 32);
  counts.finish();
  EXPECT_GT(counts.probability('x', 'y', 0.001), 0.99);
}

}  // namespace
}  // namespace lace
