#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "lace/error.h"
#include "lace/pattern.h"

#include "core/safe_text.h"
#include "pattern/random_patterns.h"

namespace lace {
namespace {

TEST(Parser, PrintsCanonically) {
  const std::vector<std::pair<const char*, const char*>> texts{
      {"dense", "dense"},
      {"  local( 128 )|strided(128)", "local(128) | strided(128)"},
      {"local(3,64)", "local(3, 64)"},
      {"local(3,1)", "local(3)"},
      {"summary(128,32,0)", "summary(128, 32)"},
      {"summary(128,32,1)", "summary(128, 32, 1)"},
      {"((block(4)))", "block(4)"},
      {"block(4) | (local(2) | sinks(1))", "block(4) | local(2) | sinks(1)"},
      {"(block(4) & local(2)) | sinks(1)", "block(4) & local(2) | sinks(1)"},
      {"block(4)&(local(2)|sinks(1))&dense", "block(4) & (local(2) | sinks(1)) & dense"},
      {"global{0..63,-64..-1}", "global{0..63, -64..-1}"},
      {"global{ 3 , 5..5 , 1 .. 2 }", "global{3, 5, 1..2}"},
      {"heads(4*dense,4*local(2)|block(4))", "heads(4*dense, 4*local(2) | block(4))"},
      {"heads(2 * dense)", "heads(2*dense)"},
      {"bidirectional(heads(1*dense,1*local(2)))", "bidirectional(heads(1*dense, 1*local(2)))"},
      {"\tfixed(128,\n32,4)\r", "fixed(128, 32, 4)"},
      {"random(3, 64, 9223372036854775807)", "random(3, 64, 9223372036854775807)"},
  };
  for (const auto& [text, printed] : texts) {
    const Pattern pattern = Pattern::parse(text);
    EXPECT_EQ(pattern.to_string(), printed);
    EXPECT_EQ(Pattern::parse(printed), pattern);
  }
}

TEST(Parser, RandomTreesSurvivePrinting) {
  std::mt19937_64 rng(3);
  for (int round = 0; round < 5000; ++round) {
    const Pattern pattern = testing::random_pattern(rng, 5);
    const std::string text = pattern.to_string();
    const Pattern parsed = Pattern::parse(text);
    ASSERT_EQ(parsed, pattern) << text;
    ASSERT_EQ(parsed.to_string(), text);
  }
}

struct Wrong {
  const char* text;
  const char* rule;
  size_t column;  // of the caret, from 0
};

// The last line of an error is the caret, the one before it the text, both two spaces in.
TEST(Parser, ErrorsPointAtTheCharacter) {
  const std::vector<Wrong> wrongs{
      {"", "[pattern] expected a pattern, got the end", 0},
      {"   ", "[pattern] expected a pattern, got the end", 3},
      {"blok(128)", "[pattern] unknown pattern 'blok', did you mean 'block'?", 0},
      {"dense | Strided(4)", "[pattern] unknown pattern 'Strided', did you mean 'strided'?", 8},
      {"sumary(8, 2)", "[pattern] unknown pattern 'sumary', did you mean 'summary'?", 0},
      {"lcoal(8)", "[pattern] unknown pattern 'lcoal', did you mean 'local'?", 0},
      {"bidirectonal(dense)",
       "[pattern] unknown pattern 'bidirectonal', did you mean 'bidirectional'?", 0},
      {"wobble(3)",
       "[pattern] unknown pattern 'wobble', known are dense, local, block, strided, summary, "
       "fixed, dilated, global, sinks, random, mask",
       0},
      {"local", "[pattern] expected '(' after local: local(window, block = 1), got the end", 5},
      {"local()", "[pattern] expected window, a whole number, got ')'", 6},
      {"local(3", "[pattern] expected ')' or ',' in local(window, block = 1), got the end", 7},
      {"local(x)", "[pattern] expected window, a whole number, got 'x'", 6},
      {"local(12x)", "[pattern] expected window, a whole number, got 'x' in it", 8},
      {"local(1.5)", "[pattern] expected window, a whole number, got '.' in it", 7},
      {"local(0)", "[local] window must be at least 1, got 0", 6},
      {"local(4, -1)", "[local] block must be at least 1, got -1", 9},
      {"local(1, 2, 3)", "[local] too many arguments, expected local(window, block = 1)", 12},
      {"summary(128)",
       "[summary] columns is missing, expected summary(length, columns, stripe = 0)", 11},
      {"block(128) | summary(128, 200)", "[summary] columns must be at most length (128), got 200",
       26},
      {"summary(128, 32, 4)", "[summary] stripe must be at most 3 (length 128, columns 32), got 4",
       17},
      {"fixed(128, 32, 5)", "[fixed] stripes must be at most 4 (length 128, columns 32), got 5",
       15},
      {"block(99999999999999999999)", "[pattern] length must fit into 64 bits", 6},
      {"global{5..3}", "[global] range of tokens must ascend, got 5..3", 7},
      {"global{1, 2..}", "[pattern] expected the last token of a range, a whole number, got '}'",
       13},
      {"global{}", "[pattern] expected a token, a whole number, got '}'", 7},
      {"dense dense", "[pattern] expected '|', '&' or the end, got 'd'", 6},
      {"dense ||block(3)", "[pattern] expected a pattern, got '|'", 7},
      {"dense)", "[pattern] expected '|', '&' or the end, got ')'", 5},
      {"(dense", "[pattern] expected ')' to close '(' at character 1, got the end", 6},
      {"dense | heads(1*dense)", "[pattern] heads(…) must be outermost", 8},
      {"heads(1*bidirectional(dense))", "[pattern] bidirectional(…) must be outermost and once", 8},
      {"heads(0*dense)", "[heads] count must be from 1 to 2147483647, got 0", 6},
      {"heads(4 dense)", "[pattern] expected '*' between a count of heads and its pattern, got 'd'",
       8},
      {"mask()", "[mask] file must have a name, got none", 5},
      {"mask(no/such.safetensors)", "[safetensors] file must exist, got no/such.safetensors", 0},
      {"block(4) | é", "[pattern] expected a pattern, got 'é'", 11},
  };
  for (const Wrong& wrong : wrongs) {
    try {
      Pattern::parse(wrong.text);
      ADD_FAILURE() << "no error for " << wrong.text;
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()), std::string(wrong.rule) + "\n  " + wrong.text + "\n  " +
                                               std::string(wrong.column, ' ') + "^");
    }
  }
}

TEST(Parser, LongTextsShowTheNeighbourhood) {
  std::string text = "dense";
  for (int i = 0; i < 100; ++i) text += " | dense";
  try {
    Pattern::parse(text + " | blok(2) | " + text);
    FAIL();
  } catch (const Error& error) {
    const std::string what = error.what();
    const size_t line = what.find('\n') + 1, caret_line = what.find('\n', line) + 1;
    EXPECT_LT(what.size() - line, 300u);
    const std::string shown = what.substr(line, caret_line - line);
    // "…" is three bytes and one column.
    EXPECT_EQ(shown.find("blok"), what.size() - 1 - caret_line + 2);
  }
}

TEST(Parser, LimitsNesting) {
  const auto nested = [](int levels) {
    const auto count = static_cast<size_t>(levels);
    return std::string(count, '(') + "dense" + std::string(count, ')');
  };
  EXPECT_EQ(Pattern::parse(nested(100)), dense());
  EXPECT_THROW(Pattern::parse(nested(101)), Error);
  EXPECT_THROW(Pattern::parse(std::string(70000, ' ') + "dense"), Error);
  Pattern deep = dense();
  EXPECT_THROW(
      {
        for (int i = 0; i < 100; ++i) deep = i % 2 ? deep | block(2) : deep & block(3);
      },
      Error);
}

std::string error_of(const std::string& text) {
  try {
    Pattern::parse(text);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

TEST(Parser, AbsurdTextsAreShortErrors) {
  const auto repeated = [](const std::string& part, size_t bytes) {
    std::string text;
    while (text.size() < bytes) text += part;
    return text;
  };
  const std::string million = repeated("0", 1'000'000), long_number = "1" + repeated("0", 60'000);
  const std::string long_text = "[pattern] text must be at most 65536 characters, got ";
  EXPECT_EQ(error_of(repeated("(", 1'000'000)), long_text + "1000000");
  EXPECT_EQ(error_of("local(1" + million + ")"), long_text + "1000008");
  const std::pair<std::string, const char*> cases[] = {
      {repeated("(", 60'000), "[pattern] parentheses must nest at most 100 deep"},
      {repeated("dense & (", 60'000), "[pattern] parentheses must nest at most 100 deep"},
      {repeated("bidirectional(", 60'000), "[pattern] bidirectional(…) must be outermost and once"},
      {repeated("heads(1*", 60'000), "[pattern] heads(…) must be outermost"},
      {"local(" + long_number + ")", "[pattern] window must fit into 64 bits"},
      {"local(-" + long_number + ")", "[pattern] window must fit into 64 bits"},
      {"local(9223372036854775807)",
       "[local] window must be at most 2147483647, got 9223372036854775807"},
      {"local(-9223372036854775808)",
       "[local] window must be at least 1, got -9223372036854775808"},
      {"heads(" + long_number + "*dense)", "[pattern] the count of heads must fit into 64 bits"},
      {"heads(4294967296*dense)", "[heads] count must be from 1 to 2147483647, got 4294967296"},
      {"global{0..99999999999}", "[global] token must be within ±2147483647, got 99999999999"},
      {repeated("x", 60'000),
       "[pattern] unknown pattern 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx', known are dense, local, "
       "block, "
       "strided, summary, fixed, dilated, global, sinks, random, mask"},
      {"mask(\"" + repeated("x", 60'000),
       "[pattern] expected '\"' after the file's name, got the end"},
  };
  for (const auto& [text, rule] : cases) {
    const std::string error = error_of(text);
    EXPECT_EQ(first_line(error), rule);
    EXPECT_LT(error.size(), 500u);
  }
  EXPECT_LT(error_of("mask(" + repeated("x", 60'000) + ")").size(), 800u);
}

TEST(Parser, HugeCountsOfHeadsAreErrorsOfBind) {
  const Pattern pattern = Pattern::parse("heads(2147483647*dense, 2147483647*local(2))");
  try {
    pattern.bind(8, 4, 4);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "[bind] counts of heads(…) must add up to the heads (8) or divide them, got "
                 "4294967294");
  }
}

// Newlines that were escaped are newlines again.
std::string with_newlines(std::string text) {
  for (size_t at; (at = text.find("\\x0a")) != std::string::npos;) text.replace(at, 4, 1, '\n');
  return text;
}

TEST(Parser, ErrorsAreSafeToPrint) {
  EXPECT_EQ(error_of("dense \x1b[2J"),
            "[pattern] expected '|', '&' or the end, got '\\x1b'\n  dense  [2J\n        ^");
  EXPECT_EQ(error_of("dense\xff\xfe(2)"),
            "[pattern] expected '|', '&' or the end, got '\\xff'\n  dense  (2)\n       ^");
  EXPECT_EQ(first_line(error_of("mask(\"a\x1b[2J\n\")")),
            "[safetensors] file must exist, got a\\x1b[2J\\x0a");
  EXPECT_EQ(first_line(error_of(std::string("mask(\"/dev/null\0\")", 18))),
            "[mask] file must have a name without zero bytes, got /dev/null\\x00");
  std::mt19937_64 rng(11);
  const std::string_view parts[] = {"dense", " | ", "local(", "3", ")", "mask(\"", "\"", "é", "∞"};
  for (int round = 0; round < 20'000; ++round) {
    std::string text;
    for (int64_t more = testing::pick(rng, 1, 60); more > 0; --more) {
      if (testing::pick(rng, 0, 1) == 0) {
        text += parts[testing::pick(rng, 0, std::ssize(parts) - 1)];
      } else {
        text += static_cast<char>(testing::pick(rng, 0, 255));
      }
    }
    const std::string error = error_of(text);
    const std::string shown = printable(error, 4 * error.size());
    // A name's own newline is escaped in the error already.
    ASSERT_EQ(with_newlines(shown), with_newlines(error));
  }
}

}  // namespace
}  // namespace lace
