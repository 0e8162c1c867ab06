#pragma once

#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "lace/data.h"

namespace lace {

// A test with an empty folder of its own.
class TempFolderTest : public testing::Test {
 protected:
  void SetUp() override {
    const testing::TestInfo& info = *testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::path(testing::TempDir()) /
              (std::string("lace_") + info.test_suite_name() + "_" + info.name());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  // The path of a file with these bytes.
  std::string write(const std::string& name, const std::string& text) const {
    const std::filesystem::path file = folder_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << text;
    return file.string();
  }

  // The path of a file of zeros that takes no room on the disk.
  std::string write_sparse(const std::string& name, int64_t bytes) const {
    const std::string file = write(name, "");
    std::filesystem::resize_file(file, static_cast<uintmax_t>(bytes));
    return file;
  }

  std::filesystem::path folder_;
};

inline std::string text(const ByteStream& stream) {
  std::string result(static_cast<size_t>(stream.size()), '\0');
  stream.read(0, {reinterpret_cast<uint8_t*>(result.data()), result.size()});
  return result;
}

inline std::string text(const DataSplit& split) { return text(split.bytes); }

// What load_text throws, or "".
inline std::string load_error(const TextOptions& options) {
  try {
    load_text(options);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace lace
