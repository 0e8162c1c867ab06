#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "lace/data.h"

namespace lace {
namespace {

namespace fs = std::filesystem;

class TextTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fs::path(testing::TempDir()) /
        ("lace_text_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& text) {
    const fs::path path = folder_ / name;
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
    return path.string();
  }

  fs::path folder_;
};

std::string text(const ByteStream& stream) {
  std::string result(static_cast<size_t>(stream.size()), '\0');
  stream.read(0, {reinterpret_cast<uint8_t*>(result.data()), result.size()});
  return result;
}

TEST_F(TextTest, FolderSplitsEvery20thFile) {
  std::string train, validation, test;
  for (int i = 0; i < 43; ++i) {
    std::string name = "f00";
    name[1] = static_cast<char>('0' + i / 10);
    name[2] = static_cast<char>('0' + i % 10);
    write("sub/" + name, name);
    (i == 19 || i == 39 ? test : i == 20 || i == 40 ? validation : train) += name;
  }
  const TextData data = load_text({.paths = {folder_.string()}});
  EXPECT_EQ(data.files, 43);
  EXPECT_EQ(text(data.train), train);
  EXPECT_EQ(text(data.validation), validation);
  EXPECT_EQ(text(data.test), test);
}

TEST_F(TextTest, SeveralRootsSortedOnceEachHiddenAndLinksLeftOut) {
  write("b/1", "B1");
  write("a/2", "A2");
  write("a.c", "AC");  // as bytes "a.c" stands before "a/2"
  write(".git/x", "hidden");
  write("a/.cache", "hidden");
  fs::create_symlink(folder_ / "a.c", folder_ / "link");
  const TextData data =
      load_text({.paths = {(folder_ / "b").string(), folder_.string(), folder_.string()},
                 .validation_fraction = 0,
                 .test_fraction = 0});
  EXPECT_EQ(data.files, 3);
  EXPECT_EQ(text(data.train), "ACA2B1");
}

TEST_F(TextTest, FileIsCutByFractions) {
  std::string content;
  for (int i = 0; i < 1000; ++i) content += static_cast<char>(i % 251);
  const TextData data = load_text({.paths = {write("one", content)}});
  EXPECT_EQ(text(data.train), content.substr(0, 900));
  EXPECT_EQ(text(data.validation), content.substr(900, 50));
  EXPECT_EQ(text(data.test), content.substr(950));
}

TEST_F(TextTest, RecordsAreNotCut) {
  const TextData data = load_text({.paths = {write("records", std::string(1005, 'r'))},
                                   .validation_fraction = 0.05,
                                   .test_fraction = 0.1,
                                   .record_bytes = 30});
  EXPECT_EQ(data.train.size(), 990 - 30 - 90);
  EXPECT_EQ(data.validation.size(), 30);
  EXPECT_EQ(data.test.size(), 90);
}

TEST_F(TextTest, LargeFilesAreMapped) {
  std::string content(3 << 18, 'x');
  for (size_t i = 0; i < content.size(); i += 7) content[i] = static_cast<char>(i % 256);
  const TextData data = load_text(
      {.paths = {write("large", content)}, .validation_fraction = 0.25, .test_fraction = 0.25});
  EXPECT_EQ(text(data.train) + text(data.validation) + text(data.test), content);
}

TEST_F(TextTest, ErrorsNameThePath) {
  try {
    load_text({.paths = {(folder_ / "absent").string()}});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("absent"), std::string::npos) << error.what();
  }
  EXPECT_THROW(load_text({.paths = {folder_.string()}}), Error);  // no bytes
  EXPECT_THROW(load_text({}), Error);
  EXPECT_THROW(load_text({.paths = {write("f", "abc")}, .test_fraction = 1.5}), Error);
}

TEST(ByteStream, ReadsAndSlicesAcrossPieces) {
  ByteStream stream({1, 2, 3});
  const ByteStream more({4, 5});
  stream.append(more.pieces()[0], std::make_shared<ByteStream>(more));
  std::vector<uint8_t> out(3);
  stream.read(2, out);
  EXPECT_EQ(out, (std::vector<uint8_t>{3, 4, 5}));
  const ByteStream part = stream.slice(1, 4);
  EXPECT_EQ(part.size(), 3);
  part.read(0, out);
  EXPECT_EQ(out, (std::vector<uint8_t>{2, 3, 4}));
  EXPECT_THROW(stream.read(3, out), Error);
  EXPECT_THROW(stream.slice(4, 6), Error);
}

}  // namespace
}  // namespace lace
