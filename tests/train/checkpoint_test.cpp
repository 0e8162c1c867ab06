#include "train/checkpoint.h"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace lace::train {
namespace {

namespace fs = std::filesystem;

class CheckpointTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / "lace_checkpoint";
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    path_ = (folder_ / "x.safetensors").string();
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string error_of(const std::vector<NamedParameter>& tensors) {
    try {
      read_safetensors(path_, tensors);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  fs::path folder_;
  std::string path_;
};

TEST_F(CheckpointTest, RoundTrip) {
  const std::vector<NamedParameter> written = {{"a", torch::randn({3, 5})},
                                               {"b.c", torch::randn({4, 2}, at::kDouble).t()},
                                               {"h", torch::randn({7}).to(at::kBFloat16)},
                                               {"one", torch::ones({})}};
  write_safetensors(path_, written, {{"key", "va\"lue"}});
  std::vector<NamedParameter> read;
  for (const auto& entry : written)
    read.push_back({entry.name, torch::zeros(entry.tensor.sizes(), entry.tensor.options())});
  EXPECT_EQ(read_safetensors(path_, read).at("key"), "va\"lue");
  for (size_t i = 0; i < read.size(); ++i)
    EXPECT_TRUE(torch::equal(read[i].tensor, written[i].tensor)) << read[i].name;
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1);  // no temporary file is left
}

TEST_F(CheckpointTest, NamesWhatDoesNotFit) {
  write_safetensors(path_, {{"a", torch::zeros({3, 5})}}, {});
  EXPECT_NE(error_of({{"b", torch::zeros({3, 5})}}).find("no tensor b"), std::string::npos);
  EXPECT_NE(error_of({{"a", torch::zeros({5, 3})}}).find("a is [3, 5]"), std::string::npos);
  EXPECT_NE(error_of({{"a", torch::zeros({3, 5}, at::kDouble)}}).find("F32"), std::string::npos);
  EXPECT_THROW(write_safetensors(path_, {{"i", torch::zeros({1}, at::kInt)}}, {}), Error);
  EXPECT_THROW(write_safetensors((folder_ / "no" / "x").string(), {}, {}), Error);
  EXPECT_EQ(error_of({{"a", torch::zeros({3, 5})}}), "");  // failed writes left the old file alone
}

TEST_F(CheckpointTest, TextIsReplacedWhole) {
  const std::string path = (folder_ / "t").string();
  write_file_atomically(path, "first");
  write_file_atomically(path, "second");
  std::ifstream file(path);
  std::string text;
  std::getline(file, text);
  EXPECT_EQ(text, "second");
}

}  // namespace
}  // namespace lace::train
