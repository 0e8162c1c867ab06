// What a recipe says of its data: paths of any bytes, and the splits of the paper's recipes.

#include <filesystem>
#include <fstream>
#include <random>

#include <gtest/gtest.h>

#include "lace/train.h"

namespace lace {
namespace {

namespace fs = std::filesystem;

TEST(RecipePaths, AnyBytesAreReadBack) {
  std::mt19937 random(3);
  const std::string often = "\\\\xe9\"'\n\t\r\xc3\xa9\xff#=[]";
  for (int i = 0; i < 2000; ++i) {
    Recipe recipe;
    for (int p = 0; p < 2; ++p) {
      std::string path(1 + random() % 10, '\0');
      for (char& c : path)
        c = static_cast<char>(random() % 4 ? often[random() % often.size()] : random());
      recipe.data.paths.push_back(path);
    }
    const std::string toml = to_toml(recipe);
    ASSERT_EQ(parse_recipe(toml, "x").data.paths, recipe.data.paths) << toml;
  }
}

TEST(RecipePaths, CanBeWrittenAsTheyAreShown) {
  const std::string start = "[data]\npaths = ";
  const std::vector<std::string> expected = {"caf\xe9"};
  EXPECT_EQ(parse_recipe(start + R"(["caf\\xe9"])", "x").data.paths, expected);
  EXPECT_EQ(parse_recipe(start + R"('caf\xe9')", "x").data.paths, expected);
  EXPECT_EQ(parse_recipe("", "x", {R"(data.paths=caf\xe9)"}).data.paths, expected);
  EXPECT_EQ(parse_recipe("", "x", {"data.paths=caf\xe9"}).data.paths, expected);
  EXPECT_EQ(parse_recipe(start + R"("a\\b\\x5cx41")", "x").data.paths,
            (std::vector<std::string>{"a\\b\\x41"}));
}

TEST(RecipeData, AllRecipesAreSound) {
  int count = 0;
  for (const auto& entry : fs::directory_iterator(LACE_RECIPES)) {
    const Recipe recipe = load_recipe(entry.path().native());
    EXPECT_EQ(recipe.name, entry.path().stem().native());
    ++count;
  }
  EXPECT_GE(count, 14);
}

// Splits of images that stand in one file, as the recipes say.
TEST(RecipeData, SplitsOfThePapersImages) {
  struct Case {
    const char* recipe;
    int64_t images, image_bytes, train, validation;
  };
  const std::string file = testing::TempDir() + "lace_recipe_images";
  for (const Case& c : {Case{"cifar10", 50'000, 3072, 48'000, 2'000},
                        Case{"imagenet64", 1'281'149, 12288, 1'231'149, 50'000},
                        Case{"imagenet64_96layers", 1'281'149, 12288, 1'231'149, 50'000}}) {
    std::ofstream(file, std::ios::trunc).close();
    fs::resize_file(file, static_cast<uintmax_t>(c.images * c.image_bytes));
    Recipe recipe = load_recipe(std::string(LACE_RECIPES) + "/" + c.recipe + ".toml");
    recipe.data.paths = {file};
    const Dataset data = load_data(recipe);
    EXPECT_EQ(data.train.size(), c.train * c.image_bytes) << c.recipe;
    EXPECT_EQ(data.validation.size(), c.validation * c.image_bytes) << c.recipe;
    EXPECT_EQ(data.test.size(), 0) << c.recipe;
  }
  fs::remove(file);
}

}  // namespace
}  // namespace lace
