#include "core/safe_text.h"

#include <gtest/gtest.h>

namespace lace {
namespace {

std::string shown(const std::string& bytes) {
  SafeText safe;
  std::string text;
  for (const char c : bytes) text += safe.add(static_cast<uint8_t>(c));
  return text + safe.finish();
}

TEST(SafeText, TextPasses) {
  const std::string text = "a\tb\n~ é ∞ 𝄞 \xf4\x8f\xbf\xbf";
  EXPECT_EQ(shown(text), text);
}

TEST(SafeText, ControlCharactersAreEscaped) {
  EXPECT_EQ(shown("\x1b[31m\r\x7f"), "\\x1b[31m\\x0d\\x7f");
  EXPECT_EQ(shown(std::string(1, '\0')), "\\x00");
  EXPECT_EQ(shown("\xc2\x9b"), "\\xc2\\x9b");  // CSI, U+009B
}

TEST(SafeText, BytesThatAreNoUtf8AreEscaped) {
  EXPECT_EQ(shown("\x80"), "\\x80");
  EXPECT_EQ(shown("\xc0\xaf"), "\\xc0\\xaf");                    // overlong
  EXPECT_EQ(shown("\xe0\x9f\xbf"), "\\xe0\\x9f\\xbf");           // overlong
  EXPECT_EQ(shown("\xed\xa0\x80"), "\\xed\\xa0\\x80");           // surrogate
  EXPECT_EQ(shown("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");  // past U+10FFFF
  EXPECT_EQ(shown("\xe2\x88z"), "\\xe2\\x88z");                  // broken off by text
  EXPECT_EQ(shown("\xe2\xc3\xa9"), "\\xe2é");                    // broken off by a character
  EXPECT_EQ(shown("\xf0\x9d"), "\\xf0\\x9d");                    // broken off by the end
}

TEST(Printable, IsOneLine) {
  EXPECT_EQ(printable("a b é"), "a b é");
  EXPECT_EQ(printable("a\nb\tc"), "a\\x0ab\\x09c");
  EXPECT_EQ(printable("\xe2\n\x1b"), "\\xe2\\x0a\\x1b");
  EXPECT_EQ(printable("\xe2"), "\\xe2");
}

TEST(Printable, LongTextIsCutBetweenCharacters) {
  EXPECT_EQ(printable("abcdef", 6), "abcdef");
  EXPECT_EQ(printable("abcdefg", 6), "abcdef…");
  EXPECT_EQ(printable("ééé", 3), "éé…");
  EXPECT_LT(printable(std::string(1'000'000, '\x01')).size(), 310u);
}

}  // namespace
}  // namespace lace
