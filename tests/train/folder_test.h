#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "train/small_recipe.h"

namespace lace {

inline std::string file_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

inline void write_text(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

// The text of the lace::Error that `body` throws; "" if it throws none.
template <typename Body>
std::string error_of(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << "got: " << (text)

inline bool same_weights(const SparseTransformer& a, const SparseTransformer& b) {
  for (size_t i = 0; i < a.parameters().size(); ++i)
    if (!at::equal(a.parameters()[i].tensor, b.parameters()[i].tensor)) return false;
  return true;
}

// A test with a folder of its own.
class FolderTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::path(testing::TempDir()) /
              concat("lace_", info->test_suite_name(), "_", info->name());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  // A recipe whose data are a file.
  Recipe recipe_with_file() const {
    Recipe recipe = small_recipe();
    const ByteStream text = small_text(4000);
    std::string bytes(static_cast<size_t>(text.size()), '\0');
    text.read(0, {reinterpret_cast<uint8_t*>(bytes.data()), bytes.size()});
    write_text(path("text"), bytes);
    recipe.data.paths = {path("text")};
    recipe.train.validate_every = 3;
    recipe.train.validate_windows = 2;
    return recipe;
  }

  std::filesystem::path folder_;
};

}  // namespace lace
