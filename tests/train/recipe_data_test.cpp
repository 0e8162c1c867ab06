// What a recipe says of its data: paths of any bytes, and the splits of the paper's recipes.

#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

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

// docs/recipes.md has a table a section, whose rows begin "| `key` | `default` |".
TEST(RecipeData, TheDocumentHasEveryKeyWithItsDefault) {
  std::ifstream document(std::string(LACE_RECIPES) + "/../docs/recipes.md");
  std::string written;
  for (std::string line; std::getline(document, line);) {
    if (line.starts_with("### [")) written.append("\n").append(line, 4).append("\n");
    if (!line.starts_with("| `") || written.empty()) continue;
    const size_t key = line.find('`') + 1, key_end = line.find('`', key);
    const size_t value = line.find('`', key_end + 1) + 1, value_end = line.find('`', value);
    written +=
        line.substr(key, key_end - key) + " = " + line.substr(value, value_end - value) + "\n";
  }
  const std::string defaults = to_toml(Recipe());
  EXPECT_EQ(to_toml(parse_recipe(written, "docs/recipes.md")), defaults);
  const auto keys = [](const std::string& toml) {  // without the values
    std::string kept;
    std::istringstream lines(toml);
    for (std::string line; std::getline(lines, line);)
      kept += line.substr(0, line.find(" =")) + "\n";
    return kept;
  };
  EXPECT_EQ(keys("name = \n" + written), keys(defaults));
}

// Splits of images, as the recipes say; here they stand in one raw file.
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
    recipe.data.test_paths.clear();
    const Dataset data = load_data(recipe);
    EXPECT_EQ(data.train.size(), c.train * c.image_bytes) << c.recipe;
    EXPECT_EQ(data.validation.size(), c.validation * c.image_bytes) << c.recipe;
    EXPECT_EQ(data.test.size(), 0) << c.recipe;
  }
  fs::remove(file);
}

// Validation and test may have paths of their own.
TEST(RecipeData, SplitsMayHavePathsOfTheirOwn) {
  const fs::path folder = fs::path(testing::TempDir()) / "lace_recipe_paths";
  fs::create_directories(folder);
  const auto write = [&](const char* name, size_t bytes) {
    std::ofstream(folder / name) << std::string(bytes, name[0]);
    return (folder / name).string();
  };
  Recipe recipe;
  recipe.data.paths = {write("a", 1000)};
  recipe.data.test_paths = {write("t", 70)};
  Dataset data = load_data(recipe);
  EXPECT_EQ(data.train.size(), 950);
  EXPECT_EQ(data.validation.size(), 50);
  EXPECT_EQ(data.test.size(), 70);
  EXPECT_EQ(data.files, 2);
  recipe.data.validation_paths = {write("v", 30), write("w", 3)};
  data = load_data(recipe);
  EXPECT_EQ(data.train.size(), 1000);
  EXPECT_EQ(data.validation.size(), 33);
  EXPECT_EQ(data.files, 4);
  EXPECT_EQ(load_whole(recipe, recipe.data.validation_paths).train.size(), 33);
  fs::remove_all(folder);
}

TEST(RecipeData, CacheStandsBesideTheRun) {
  EXPECT_EQ(cache_beside("/a/runs/x"), "/a/runs/.lace-cache");
  EXPECT_EQ(cache_beside("/a/runs/x/"), "/a/runs/.lace-cache");
  EXPECT_EQ(cache_beside("/a/./b/../x"), "/a/.lace-cache");
}

// Keys of another kind are an error, as images are that do not fill a window.
TEST(RecipeData, KeysBelongToTheirKind) {
  const auto error_of = [](const std::string& data, const std::string& model = "") {
    try {
      parse_recipe("[model]\nseq_len = 48\nposition_stride = 8\n" + model + "\n[data]\n" + data,
                   "x");
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const std::string image = "image_height = 4\nimage_width = 4\nimage_channels = 3";
  EXPECT_EQ(error_of("kind = 'images'\nresize = 'crop'", image), "");
  EXPECT_EQ(error_of("kind = 'audio'\nsample_rate = 8000"), "");
  EXPECT_EQ(error_of("split = 'files'\nrecord_bytes = 48"), "");
  EXPECT_EQ(error_of("kind = 'images'"),
            "[data] kind = \"images\" needs model.seq_len to be image_height · image_width · "
            "image_channels, got 48 and 0 · 0 · 0");
  EXPECT_EQ(error_of("resize = 'crop'"),
            "[data] resize is a key of kind = \"images\", got kind = \"text\"");
  EXPECT_EQ(error_of("kind = 'images'\nsplit = 'files'", image),
            "[data] split is a key of kind = \"text\", got kind = \"images\"");
  EXPECT_NE(error_of("sample_rate = 8000").find("kind = \"audio\""), std::string::npos);
  EXPECT_NE(error_of("kind = 'sound'").find("kind is text, images or audio, got sound"),
            std::string::npos);
}

}  // namespace
}  // namespace lace
