#include "lace/recipe.h"

#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

namespace lace {
namespace {

constexpr const char* kText = R"toml(name = "tiny"
[model]
layers = 2
patterns = "local(8) | strided(8)"
precision = "bf16"

[data]
paths = ["a", "b c"]
[optimizer]
learning_rate = 1e-3
)toml";

std::string error_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
  try {
    parse_recipe(text, "x.toml", overrides);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << "got: " << (text)

TEST(Recipe, ReadsFieldsAndKeepsDefaults) {
  const Recipe recipe = parse_recipe(kText, "x.toml");
  EXPECT_EQ(recipe.name, "tiny");
  EXPECT_EQ(recipe.model.layers, 2);
  EXPECT_EQ(recipe.model.patterns, (std::vector<std::string>{"local(8) | strided(8)"}));
  EXPECT_EQ(recipe.model.precision, Precision::kBFloat16);
  EXPECT_EQ(recipe.data.paths, (std::vector<std::string>{"a", "b c"}));
  EXPECT_DOUBLE_EQ(recipe.optimizer.learning_rate, 1e-3);
  EXPECT_DOUBLE_EQ(recipe.optimizer.beta2, 0.999);
  EXPECT_EQ(recipe.model.seq_len, ModelConfig().seq_len);
}

TEST(Recipe, ResolvedTextGivesTheSameRecipe) {
  Recipe recipe = parse_recipe(kText, "x.toml");
  recipe.name = "quo\"te\\";
  recipe.model.seed = 12345678901234567ull;
  recipe.model.dropout = 0.1;
  recipe.model.recompute = true;
  recipe.model.patterns.push_back("dense");
  recipe.train.max_minutes = 1.0 / 3;
  const std::string text = to_toml(recipe);
  const Recipe again = parse_recipe(text, "again");
  EXPECT_EQ(to_toml(again), text);
  EXPECT_EQ(again.name, recipe.name);
  EXPECT_EQ(again.model.seed, recipe.model.seed);
  EXPECT_EQ(again.train.max_minutes, recipe.train.max_minutes);
  EXPECT_EQ(again.model.patterns, recipe.model.patterns);
}

TEST(Recipe, RotaryPositions) {
  const Recipe recipe = parse_recipe(R"toml([model]
positions = "rotary"
rotary_base = 5e5
rotary_scaling = "yarn"
rotary_factor = 4
rotary_original_length = 300
rotary_beta_fast = 16
rotary_beta_slow = 2
init = "gpt2"
)toml",
                                     "x.toml");
  for (const Recipe& r : {recipe, parse_recipe(to_toml(recipe), "again")}) {
    EXPECT_EQ(r.model.positions, PositionKind::kRotary);
    EXPECT_EQ(r.model.rotary_base, 5e5);
    EXPECT_EQ(r.model.rotary_scaling, RotaryScaling::kYarn);
    EXPECT_EQ(r.model.rotary_factor, 4);
    EXPECT_EQ(r.model.rotary_original_length, 300);
    EXPECT_EQ(r.model.rotary_beta_fast, 16);
    EXPECT_EQ(r.model.rotary_beta_slow, 2);
    EXPECT_EQ(r.model.init, LinearInit::kGpt2);
  }
  EXPECT_HAS(error_of("[model]\npositions = \"rotray\"\n"),
             "one of text, image, rotary, got rotray");
  EXPECT_HAS(error_of("[model]\nrotary_scaling = \"ntk\"\n"), "one of none, linear, yarn, got ntk");
  EXPECT_HAS(error_of("[model]\nrotary_factor = 2\n"), "rotary_factor must be 1 without");
}

TEST(Recipe, OverridesComeLast) {
  const Recipe recipe = parse_recipe(
      kText, "x.toml",
      {"model.layers=5", "model.precision=fp32", "data.paths=one", "train.max_minutes=2",
       "model.patterns=[\"dense\", \"local(4)\"]", "name=other", "model.layers=6"});
  EXPECT_EQ(recipe.model.layers, 6);
  EXPECT_EQ(recipe.model.precision, Precision::kFloat32);
  EXPECT_EQ(recipe.data.paths, (std::vector<std::string>{"one"}));
  EXPECT_EQ(recipe.train.max_minutes, 2);
  EXPECT_EQ(recipe.model.patterns.size(), 2u);
  EXPECT_EQ(recipe.name, "other");
}

TEST(Recipe, UnknownKeysNameTheNearestAndTheLine) {
  const std::string key = error_of("[model]\nlayers = 2\nd_modle = 8\n");
  EXPECT_HAS(key, "x.toml:3");
  EXPECT_HAS(key, "unknown key model.d_modle");
  EXPECT_HAS(key, "nearest is model.d_model");
  const std::string section = error_of("\n[optimiser]\nbeta1 = 0.9\n");
  EXPECT_HAS(section, "x.toml:2");
  EXPECT_HAS(section, "nearest is optimizer");
  const std::string set = error_of("", {"train.step=5"});
  EXPECT_HAS(set, "--set train.step");
  EXPECT_HAS(set, "train.steps");
}

TEST(Recipe, BuildsOnAnother) {
  const std::filesystem::path folder = testing::TempDir() + "lace_recipe_bases";
  std::filesystem::create_directories(folder / "sub");
  const auto write = [&](const char* name, const std::string& text) {
    std::ofstream(folder / name) << text;
    return (folder / name).native();
  };
  write("first.toml", "name = \"first\"\n[model]\nlayers = 3\nheads = 8\n[train]\nsteps = 5\n");
  write("sub/second.toml", "base = \"../first.toml\"\n[model]\nlayers = 4\n");
  const std::string third = write("third.toml", "base = \"sub/second.toml\"\n[train]\nbatch = 7\n");
  const Recipe recipe = load_recipe(third, {"model.heads=2"});
  EXPECT_EQ(recipe.name, "");
  EXPECT_EQ(recipe.model.layers, 4);
  EXPECT_EQ(recipe.model.heads, 2);
  EXPECT_EQ(recipe.train.batch, 7);
  EXPECT_EQ(recipe.train.steps, 5);
  EXPECT_EQ(to_toml(recipe).find("\nbase"), std::string::npos);  // what is written stands alone

  const auto error = [&](const std::string& text) {
    try {
      parse_recipe(text, (folder / "x.toml").native());
    } catch (const Error& failure) {
      return std::string(failure.what());
    }
    return std::string();
  };
  EXPECT_HAS(error("\nbase = \"missing.toml\"\n"), "x.toml:2: base must name a recipe's file");
  EXPECT_HAS(error("base = 3\n"), "base is a string");
  EXPECT_HAS(error("base = \".\"\n"), "base must name a recipe's file");
  write("broken.toml", "[model]\nlayer = 3\n");
  EXPECT_HAS(error("base = \"broken.toml\"\n"), "broken.toml:2: unknown key model.layer");
  write("loop.toml", "base = \"loop.toml\"\n");
  EXPECT_HAS(error("base = \"loop.toml\"\n"), "at most 4 recipes may build on one another");
  std::filesystem::remove_all(folder);
}

TEST(Recipe, WrongTypesAndSyntaxNameTheLine) {
  const std::string type = error_of("[model]\nlayers = \"two\"\n");
  EXPECT_HAS(type, "x.toml:2");
  EXPECT_HAS(type, "model.layers is a whole number");
  EXPECT_HAS(error_of("[model]\nlayers = 2.5\n"), "whole number");
  EXPECT_HAS(error_of("[model]\nrecompute = 1\n"), "true or false");
  EXPECT_HAS(error_of("[data]\npaths = [1]\n"), "list of strings");
  EXPECT_HAS(error_of("[train]\nseed = -1\n"), "at least 0");
  EXPECT_HAS(error_of("[model]\nprecision = \"int8\"\n"), "x.toml:2");
  EXPECT_HAS(error_of("model = 3\n"), "model is a section");
  EXPECT_HAS(error_of("[model\n"), "x.toml:1");
  EXPECT_HAS(error_of("", {"layers"}), "section.key=value");
}

// Each level once took a frame of the stack.
TEST(Recipe, MillionsOfLevelsAreAnError) {
  const auto repeated = [](const std::string& part) {
    std::string text;
    while (text.size() < 1'000'000) text += part;
    return text;
  };
  EXPECT_HAS(error_of(repeated("a.") + "a = 1\n"), "x.toml:1: a key must have at most 8 dots");
  EXPECT_HAS(error_of("[" + repeated("a.") + "a]\n"), "x.toml:1: a key must have at most 8 dots");
  EXPECT_HAS(error_of("a = {" + repeated("a.") + "a = 1}\n"), "at most 8 dots");
  EXPECT_HAS(error_of(repeated("\"\".") + "a = 1\n"), "at most 8 dots");
  EXPECT_HAS(error_of("\n\na = " + repeated("[")), "x.toml:3: values must nest at most 8 deep");
  EXPECT_HAS(error_of("a = " + repeated("{a=")), "at most 8 deep");
  EXPECT_HAS(error_of("a = " + repeated("[{a.a=\n")), "at most 8 deep");
  EXPECT_HAS(error_of(repeated("# more\n") + repeated("\n")), "at most 1048576 bytes");
  // What is no TOML value is a string, and so is what could be one of a million levels.
  EXPECT_HAS(error_of("", {repeated("a.") + "a=1"}), "unknown section [a]");
  EXPECT_EQ(error_of("", {"data.paths=" + repeated("[")}), "");
  EXPECT_EQ(error_of("", {"data.paths=a.b.c.d.e.f.g.h.i.j.k"}), "");
}

TEST(Recipe, StringsAndCommentsMayHoldDotsAndBrackets) {
  const std::string dots = ".a.b.c.d.e.f.g.h.i.j[[[[[[[[[[{{{{";
  for (const std::string& quoted :
       {"\"" + dots + "\\\"" + dots + "\"", "'" + dots + "'",
        "\"\"\"" + dots + "\n" + dots + "\"\"\"", "'''" + dots + "\n\"" + dots + "'''"}) {
    EXPECT_EQ(error_of("[data]\npaths = " + quoted + " # " + dots + "\n[model]\nlayers = 2\n"), "")
        << quoted;
  }
  EXPECT_EQ(error_of("[data]\npaths = [\"a.b.c.d.e.f.g.h.i.j.k\", \n 'x.y' ]\n"), "");
}

TEST(Recipe, SectionsHaveNames) {  // each of these is an assertion of toml++
  const std::string name = "a section must have a name of letters, digits, _ and -, or in quotes";
  EXPECT_HAS(error_of("\n[%]\n"), "x.toml:2: " + name);
  for (const std::string text : {"[\n", "  [ %", "[[[a]]]", "[[ =", "\xEF\xBB\xBF[.a]"}) {
    EXPECT_HAS(error_of(text), name);
  }
  EXPECT_HAS(error_of(std::string("[\0]", 3)), name);
  EXPECT_HAS(error_of("[]"), "x.toml:1");
  EXPECT_EQ(error_of("\xEF\xBB\xBF[ \"model\" ]\nlayers = 2\n[data]\npaths = [\n'a',\n  'b']\n"),
            "");
}

TEST(Recipe, IsAsciiOutsideStringsAndComments) {  // toml++ has no case for U+00A1 to U+0499
  const std::string rule =
      "x.toml:2: outside strings and comments a recipe must be printable ASCII, got \\x";
  EXPECT_HAS(error_of("\nlayers = 2\xd0\x80"), rule + "d0");
  EXPECT_HAS(error_of("\n\xc3\xa9 = 2"), rule + "c3");
  EXPECT_HAS(error_of(std::string("\nlayers = 0\0", 12)), rule + "00");
  EXPECT_EQ(error_of("# \xc3\xa9\n[data]\npaths = '\xc3\xa9' # \xd0\x80\n"), "");
}

TEST(Recipe, NamesInErrorsAreEscapedAndCut) {
  EXPECT_HAS(error_of("[\"a\\u001b[2J\"]\n"), "unknown section [a\\x1b[2J]");
  EXPECT_LT(error_of("[" + std::string(500'000, 'a') + "]\n").size(), 1000u);
  EXPECT_LT(error_of("[model]\nlayers = \"" + std::string(500'000, 'a') + "\"\n").size(), 1000u);
}

TEST(Recipe, ChecksValues) {
  EXPECT_HAS(error_of("[optimizer]\nbeta2 = 1.0\n"), "optimizer.beta2");
  EXPECT_HAS(error_of("[train]\nbatch = 0\n"), "train.batch");
  EXPECT_HAS(error_of("[train]\nsteps = 0\n"), "max_minutes");
  EXPECT_HAS(error_of("[eval]\nmin_context = 1024\n"), "eval.min_context");
  EXPECT_HAS(error_of("[data]\nrecord_bytes = 3\n"), "record_bytes");
  EXPECT_HAS(error_of("[data]\ntest_fraction = 0.97\n"), "[data]");
  EXPECT_HAS(error_of("[model]\npatterns = \"loca(8)\"\n"), "loca(8)");
  EXPECT_THROW(load_recipe("/nonexistent/recipe.toml"), Error);
}

}  // namespace
}  // namespace lace
