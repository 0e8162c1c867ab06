#include "core/regular_file.h"

#include <chrono>
#include <filesystem>
#include <string>
#include <thread>

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "lace/error.h"

#include "core/temporary_file.h"

namespace lace {
namespace {

std::string error_of(const std::string& path) {
  try {
    const RegularFile file(path, "test");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(RegularFile, ReadsBytes) {
  const testing::TemporaryFile temporary;
  temporary.write("0123456789");
  const RegularFile file(temporary.path(), "test");
  EXPECT_EQ(file.bytes(), 10);
  std::string text(4, ' ');
  file.read(5, text.data(), 4);
  EXPECT_EQ(text, "5678");
  EXPECT_THROW(file.read(8, text.data(), 4), Error);
}

TEST(RegularFile, StaysTheFileThatWasOpened) {
  const testing::TemporaryFile temporary;
  temporary.write("old");
  const RegularFile file(temporary.path(), "test");
  std::filesystem::remove(temporary.path());
  temporary.write("new");
  std::string text(3, ' ');
  file.read(0, text.data(), 3);
  EXPECT_EQ(text, "old");
  EXPECT_FALSE(file.identity() == *identity_of(temporary.path()));
}

TEST(RegularFile, RefusesWhatIsNone) {
  const testing::TemporaryFile temporary;
  EXPECT_EQ(error_of(temporary.path()), "[test] file must exist, got " + temporary.path());
  EXPECT_EQ(error_of("/proc/self/exe/x"), "[test] file must exist, got /proc/self/exe/x");
  EXPECT_EQ(error_of("a\x1b[2J"), "[test] file must exist, got a\\x1b[2J");
  EXPECT_EQ(error_of("/"), "[test] file must be a regular file, got /");
  EXPECT_EQ(error_of("/dev/zero"), "[test] file must be a regular file, got /dev/zero");
  ASSERT_EQ(::mkfifo(temporary.path().c_str(), 0600), 0);  // nobody writes: opening would wait
  EXPECT_EQ(error_of(temporary.path()),
            "[test] file must be a regular file, got " + temporary.path());
}

TEST(RegularFile, IdentityTellsContentsApart) {
  const testing::TemporaryFile temporary;
  EXPECT_FALSE(identity_of(temporary.path()).has_value());
  temporary.write("one");
  const FileIdentity first = *identity_of(temporary.path());
  EXPECT_EQ(first, *identity_of(temporary.path()));
  EXPECT_EQ(first.bytes, 3);
  FileIdentity changing = first;
  changing.modified_ns += int64_t{3600} * 1'000'000'000;  // however late this test gets to look
  EXPECT_FALSE(changing.settled());
  while (!first.settled()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  temporary.write("two");  // of the same size, in the same inode
  EXPECT_FALSE(first == *identity_of(temporary.path()));
}

}  // namespace
}  // namespace lace
