#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

namespace lace::testing {

// A file of the running test's name, so that tests may run at once; removed at the end.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& ending = "")
      : path_(::testing::TempDir() + "lace_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->test_suite_name() + "_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name() + ending) {}
  ~TemporaryFile() { std::filesystem::remove_all(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::string& path() const { return path_; }
  void write(std::string_view text) const { std::ofstream(path_, std::ios::binary) << text; }

 private:
  std::string path_;
};

// A safetensors file: the length of the header, the header, the data.
inline std::string safetensors_text(std::string_view header, std::string_view data) {
  std::string text;
  for (int shift = 0; shift < 64; shift += 8) {
    text += static_cast<char>(static_cast<uint64_t>(header.size()) >> shift);
  }
  return text.append(header).append(data);
}

}  // namespace lace::testing
