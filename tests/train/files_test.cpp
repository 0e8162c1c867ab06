#include "train/files.h"

#include <csignal>

#include <unistd.h>

#include <sys/resource.h>
#include <sys/wait.h>

#include "train/file_size_limit.h"
#include "train/folder_test.h"

namespace lace::train {
namespace {

namespace fs = std::filesystem;

class FilesTest : public FolderTest {};

TEST_F(FilesTest, TextIsReplacedWholeAndTheOldKept) {
  write_file_atomically(path("t"), "first", path("old"));
  EXPECT_FALSE(fs::exists(path("old")));
  write_file_atomically(path("t"), "second", path("old"));
  EXPECT_EQ(file_text(path("t")), "second");
  EXPECT_EQ(file_text(path("old")), "first");
  write_file_atomically(path("t"), "third", path("old"));
  EXPECT_EQ(file_text(path("old")), "second");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 2);
}

TEST_F(FilesTest, KeepsAlsoAfterACrashBetweenTheNames) {
  write_file_atomically(path("t"), "first");
  fs::create_hard_link(path("t"), path("old"));  // the old name is given, the new one is not
  write_file_atomically(path("t"), "second", path("old"));
  EXPECT_EQ(file_text(path("t")), "second");
  EXPECT_EQ(file_text(path("old")), "first");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 2);
}

TEST_F(FilesTest, WhatIsNotCommittedDidNotHappen) {
  write_file_atomically(path("t"), "first");
  { AtomicFile(path("t")).write({"second", 6}); }
  EXPECT_EQ(file_text(path("t")), "first");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1);
  EXPECT_HAS(error_of([&] { AtomicFile(path("no/t")); }), path("no/t"));
}

TEST_F(FilesTest, OneWriterAtATime) {
  AtomicFile first(path("t"));
  EXPECT_HAS(error_of([&] { AtomicFile(path("t")); }), "another process is writing " + path("t"));
  first.write({"first", 5});
  first.commit();
  AtomicFile second(path("t"));  // the lock of the first is on another file by now
  second.write({"second", 6});
  second.commit();
  EXPECT_EQ(file_text(path("t")), "second");
}

TEST_F(FilesTest, AFullDiskIsNamed) {
  write_file_atomically(path("t"), "first");
  const FileSizeLimit limit(10);
  const std::string error =
      error_of([&] { write_file_atomically(path("t"), std::string(100, 'x')); });
  EXPECT_HAS(error, "cannot write " + path("t"));
  EXPECT_EQ(file_text(path("t")), "first");
}

TEST_F(FilesTest, ALockGoesWithTheProcess) {
  const pid_t child = ::fork();
  if (child == 0) {
    const auto lock = open_locked(path("lock"));
    write_text(path("ready"), "");
    ::pause();
    ::_exit(0);
  }
  while (!fs::exists(path("ready"))) ::usleep(1000);
  EXPECT_FALSE(open_locked(path("lock")));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  {
    const auto lock = open_locked(path("lock"));
    EXPECT_TRUE(lock);
    EXPECT_FALSE(open_locked(path("lock")));  // nor twice in one process
  }
  EXPECT_TRUE(open_locked(path("lock")));
}

}  // namespace
}  // namespace lace::train
