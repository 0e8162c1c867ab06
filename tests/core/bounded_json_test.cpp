#include "core/bounded_json.h"

#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "lace/error.h"

#include "core/temporary_file.h"

namespace lace {
namespace {

std::string error_of(const std::string& text, const JsonLimits& limits = {}) {
  try {
    parse_json(text, "[test] x.json", limits);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(BoundedJson, ParsesWhatIsInBounds) {
  EXPECT_EQ(parse_json(R"({"a": [1, {"b": "c"}], "b": {"a": 1}})", "x").at("a").at(1).at("b"), "c");
  EXPECT_EQ(parse_json("3", "x"), 3);
  EXPECT_EQ(error_of("[[[1]]]", {.depth = 3}), "no error");
  EXPECT_EQ(error_of("[10]", {.bytes = 4}), "no error");
}

TEST(BoundedJson, DepthSizeAndKeysAreChecked) {
  EXPECT_EQ(error_of("[[[[1]]]]", {.depth = 3}), "[test] x.json must nest at most 3 deep");
  EXPECT_EQ(error_of(R"([{"a":[{}]}])", {.depth = 3}), "[test] x.json must nest at most 3 deep");
  EXPECT_EQ(error_of("[100]", {.bytes = 4}),
            "[test] x.json must have at most 4 bytes of JSON, got 5");
  EXPECT_EQ(error_of("[1"), "[test] x.json must be JSON");
  EXPECT_EQ(error_of(""), "[test] x.json must be JSON");
  EXPECT_EQ(error_of("{} {}"), "[test] x.json must be JSON");
  EXPECT_EQ(error_of("\"\xff\""), "[test] x.json must be JSON");
  EXPECT_EQ(error_of(R"({"a": {"b": 1}, "b": 2, "a": 3})"),
            "[test] x.json must name each key once, got a twice");
  EXPECT_EQ(error_of(R"([{"\u001b": 1, "\u001b": 2}])"),
            "[test] x.json must name each key once, got \\x1b twice");
}

TEST(BoundedJson, MillionsOfBracketsAreAnError) {
  for (const std::string open : {"[", R"({"a":)", R"([{"a":)"}) {
    std::string text;
    while (text.size() < 4'000'000) text += open;
    EXPECT_EQ(error_of(text), "[test] x.json must nest at most 32 deep");
  }
}

TEST(BoundedJson, FilesAreNamed) {
  const testing::TemporaryFile file(".json");
  const auto read = [&](const JsonLimits& limits = {}) -> std::string {
    try {
      return read_json(file.path(), "run", limits).dump();
    } catch (const Error& error) {
      return error.what();
    }
  };
  EXPECT_EQ(read(), "[run] file must exist, got " + file.path());
  file.write("[1, 2]");
  EXPECT_EQ(read(), "[1,2]");
  EXPECT_EQ(read({.bytes = 5}),
            "[run] " + file.path() + " must have at most 5 bytes of JSON, got 6");
  file.write("[1, 2");
  EXPECT_EQ(read(), "[run] " + file.path() + " must be JSON");
}

}  // namespace
}  // namespace lace
