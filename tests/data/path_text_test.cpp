#include <random>
#include <string>

#include <gtest/gtest.h>

#include "lace/data.h"

#include "core/safe_text.h"

namespace lace {
namespace {

TEST(PathText, ShowsWhatIsNoTextAndKeepsTheRest) {
  for (const char* plain : {"", "data/enwik8", "a b é ∞ 𝄞", "C:\\x", "\\\\server\\", "it's \"x\""})
    EXPECT_EQ(path_text(plain), plain);
  EXPECT_EQ(path_text("caf\xe9"), "caf\\xe9");
  EXPECT_EQ(path_text("a\nb\tc\x7f"), "a\\x0ab\\x09c\\x7f");
  EXPECT_EQ(path_text(std::string("a\0b", 3)), "a\\x00b");
  EXPECT_EQ(path_text("\xc2\x9b"), "\\xc2\\x9b");  // a control character
  EXPECT_EQ(path_text("a\\xe9"), "a\\x5cxe9");     // four characters, not a byte
  EXPECT_EQ(path_text("\\xE9\xe9"), "\\x5cxE9\\xe9");
  EXPECT_EQ(path_text("\xe2\n\xe2\\x00"), "\\xe2\\x0a\\xe2\\x5cx00");
}

TEST(PathText, IsReadBack) {
  EXPECT_EQ(path_bytes("caf\\xe9\\xE9\\xg\\x1"), "caf\xe9\xe9\\xg\\x1");
  std::mt19937 random(1);
  const std::string often = "\\\\\\xx0aFé∞\n\t\xe9\xc2";
  for (int i = 0; i < 20000; ++i) {
    std::string path(random() % 12, '\0');
    for (char& c : path)
      c = static_cast<char>(random() % 3 ? often[random() % often.size()] : random());
    const std::string shown = path_text(path);
    ASSERT_EQ(path_bytes(shown), path) << shown;
    SafeText safe;  // changes nothing: the text is UTF-8 without control characters
    std::string again;
    for (const char c : shown) again += safe.add(static_cast<uint8_t>(c));
    ASSERT_EQ(again + safe.finish(), shown);
    ASSERT_EQ(shown.find_first_of("\n\t"), std::string::npos);
  }
}

}  // namespace
}  // namespace lace
