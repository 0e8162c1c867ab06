#include "train/event_file.h"

#include <bit>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace lace::train {
namespace {

namespace fs = std::filesystem;

class EventFileTest : public testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  // The records of a file, their checksums compared.
  static std::vector<std::string> records(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    const std::string text(std::istreambuf_iterator<char>(file), {});
    std::vector<std::string> found;
    const auto masked = [](const std::string& bytes) {
      const uint32_t crc = crc32c(bytes);
      return std::rotr(crc, 15) + 0xa282ead8u;
    };
    for (size_t at = 0; at + 12 <= text.size();) {
      uint64_t length = 0;
      uint32_t crc = 0;
      std::memcpy(&length, text.data() + at, 8);
      std::memcpy(&crc, text.data() + at + 8, 4);
      EXPECT_EQ(crc, masked(text.substr(at, 8)));
      found.push_back(text.substr(at + 12, length));
      std::memcpy(&crc, text.data() + at + 12 + length, 4);
      EXPECT_EQ(crc, masked(found.back()));
      at += 16 + length;
    }
    return found;
  }

  const std::string folder_ = testing::TempDir() + "/lace_event_file";
};

TEST(Crc32c, HasThePublishedValues) {  // RFC 3720, B.4
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(crc32c(""), 0u);
}

TEST_F(EventFileTest, WritesWhatTheFormatSays) {
  EventFile file(folder_, 8);
  EXPECT_TRUE(fs::is_empty(folder_));  // a start that fails leaves nothing
  const std::vector<std::pair<std::string, double>> scalars = {{"loss", 0.5}};
  file.add(300, scalars);
  const std::vector<std::string> found = records(file.path());
  ASSERT_EQ(found.size(), 3u);
  // Behind the wall time (key 0x09 and 8 bytes): step 0, version; step 8, a session that starts;
  // step 300, a summary of one value.
  const auto rest = [&](size_t i) { return found[i].substr(9); };
  EXPECT_EQ(found[0][0], '\x09');
  EXPECT_EQ(rest(0), std::string("\x10\x00\x1a\x0d", 4) + "brain.Event:2");
  EXPECT_EQ(rest(1), std::string("\x10\x08\x3a\x02\x08\x01", 6));
  EXPECT_EQ(rest(2),
            std::string("\x10\xac\x02\x2a\x0d\x0a\x0b\x0a\x04loss\x15\x00\x00\x00\x3f", 18));
}

TEST_F(EventFileTest, ASecondFileSortsBehindTheFirst) {
  const std::vector<std::pair<std::string, double>> scalars = {{"loss", 0.5}};
  std::string before;
  for (int i = 0; i < 3; ++i) {
    EventFile file(folder_, 1);
    file.add(1, scalars);
    EXPECT_LT(before, file.path());
    before = file.path();
  }
}

}  // namespace
}  // namespace lace::train
