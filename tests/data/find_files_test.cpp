// Which files load_text() finds below its paths, and what it says of the rest.

#include <cstdlib>

#include <unistd.h>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "data/temp_folder.h"

namespace lace {
namespace {

namespace fs = std::filesystem;

class FindFilesTest : public TempFolderTest {
 protected:
  Dataset load(const std::vector<std::string>& names) const {
    TextOptions options = {.paths = {}, .validation_fraction = 0, .test_fraction = 0};
    for (const std::string& name : names) options.paths.push_back(path(name));
    return load_text(options);
  }
  // What loading a path as it is, or one below the folder, throws.
  std::string error_of(const std::string& name) const {
    return load_error({.paths = {name.starts_with('/') ? name : path(name)}});
  }
  void make_socket(const std::string& name) const {
    const int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    ASSERT_LT(path(name).size(), sizeof address.sun_path);
    path(name).copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(::bind(socket, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ::close(socket);
  }
  void make_pipe(const std::string& name) const {
    ASSERT_EQ(::mkfifo(path(name).c_str(), 0600), 0);
  }
};

// Notes with the test's folder left out of the names.
std::vector<std::string> short_notes(const Dataset& data, const std::string& folder) {
  std::vector<std::string> notes = data.notes;
  for (std::string& note : notes) {
    for (size_t at; (at = note.find(folder)) != std::string::npos;) note.erase(at, folder.size());
  }
  return notes;
}

using Notes = std::vector<std::string>;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_F(FindFilesTest, SeveralRootsSortedOnceEachHiddenLeftOut) {
  write("b/1", "B1");
  write("a/2", "A2");
  write("a.c", "AC");  // as bytes "a.c" stands before "a/2"
  write(".git/x", "hidden");
  write("a/.cache", "hidden");
  const Dataset data = load({"b", "", ""});
  EXPECT_EQ(data.files, 3);
  EXPECT_EQ(text(data.train), "ACA2B1");
  EXPECT_EQ(text(load({"", "b/1", "a"}).train), "ACA2B1");
  EXPECT_EQ(short_notes(load({""}), folder_.string()), (Notes{"hidden: 2 (/.git, /a/.cache)"}));
}

TEST_F(FindFilesTest, TheSameFileIsCountedOnceWhateverItIsCalled) {
  write("d/file", "F");
  fs::create_hard_link(path("d/file"), path("d/hard"));
  fs::create_symlink("file", path("d/soft"));
  for (const std::vector<std::string>& names :
       {std::vector<std::string>{"d"}, {"d/", "d/file"}, {"d/../d/soft", "d/file"}, {"./d", "d"}}) {
    const Dataset data = load(names);
    EXPECT_EQ(text(data.train), "F") << names[0];
    EXPECT_EQ(data.files, 1);
  }
  EXPECT_EQ(short_notes(load({"d"}), folder_.string()),
            (Notes{"further names of the same: 2 (/d/hard, /d/soft)"}));
}

TEST_F(FindFilesTest, ASnapshotFolderOfLinksIsRead) {
  // As model hubs lay it out.
  write("hub/blobs/0a", "first ");
  write("hub/blobs/0b", "second");
  fs::create_directories(path("hub/snapshots/1/data"));
  fs::create_symlink("../../blobs/0a", path("hub/snapshots/1/a.txt"));
  fs::create_symlink("../../../blobs/0b", path("hub/snapshots/1/data/b.txt"));
  fs::create_symlink("../../blobs/0a", path("hub/snapshots/1/c.txt"));
  const Dataset data = load({"hub/snapshots/1"});
  EXPECT_EQ(data.files, 2);
  EXPECT_EQ(text(data.train), "first second");
  EXPECT_EQ(text(load({"hub"}).train), "first second");
  EXPECT_EQ(text(load({"hub/snapshots/1/c.txt"}).train), "first ");
}

TEST_F(FindFilesTest, LinksToFoldersAreFollowedAndCyclesEnd) {
  write("elsewhere/x", "X");
  write("d/1", "1");
  fs::create_directory_symlink("../elsewhere", path("d/2"));
  fs::create_directory_symlink("..", path("d/3"));  // holds d and elsewhere again
  fs::create_directory_symlink(".", path("d/4"));
  fs::create_symlink("5", path("d/5"));
  const Dataset data = load({"d"});
  EXPECT_EQ(data.files, 2);
  EXPECT_EQ(text(data.train), "1X");
  EXPECT_EQ(short_notes(data, folder_.string()),
            (Notes{"unreadable: 1 (/d/5: Too many levels of symbolic links)",
                   "further names of the same: 3 (/d/3/d, /d/3/elsewhere, /d/4)"}));
}

TEST_F(FindFilesTest, WhatIsNoFileIsLeftOutOfAFolderAndSaid) {
  write("file", "F");
  write("empty", "");
  fs::create_directories(path("empty_folder/below"));
  make_pipe("pipe");
  make_socket("socket");
  fs::create_symlink("/dev/null", path("device"));
  fs::create_symlink("nowhere", path("dangling"));
  for (int i = 0; i < 4; ++i) make_pipe("pipe" + std::to_string(i));
  const Dataset data = load({""});
  EXPECT_EQ(text(data.train), "F");
  EXPECT_EQ(data.files, 1);
  EXPECT_EQ(
      short_notes(data, folder_.string()),
      (Notes{"pipes, sockets and devices: 7 (/device: a device, /pipe: a pipe, /pipe0: a pipe, …)",
             "links that lead nowhere: 1 (/dangling)", "empty: 1 (/empty)"}));
}

TEST_F(FindFilesTest, NamedThemselvesTheyAreErrorsAtOnce) {
  make_pipe("pipe");
  make_socket("socket");
  fs::create_symlink("nowhere", path("dangling"));
  fs::create_symlink("loop", path("loop"));
  fs::create_symlink("pipe", path("link"));
  EXPECT_TRUE(contains(error_of("pipe"), path("pipe") + " is a pipe"));
  EXPECT_TRUE(contains(error_of("link"), path("link") + " is a pipe"));
  EXPECT_TRUE(contains(error_of("socket"), path("socket") + " is a socket"));
  EXPECT_TRUE(contains(error_of("/dev/null"), "/dev/null is a device"));
  EXPECT_TRUE(contains(error_of("dangling"), path("dangling") + " is a link that leads nowhere"));
  EXPECT_TRUE(contains(error_of("loop"), path("loop") + ": Too many levels of symbolic links"));
}

TEST_F(FindFilesTest, NoSuchFileIsSaidOnlyWhereThereIsNone) {
  write("file", "F");
  const std::string none = "no such file or folder: ";
  EXPECT_TRUE(contains(error_of("absent"), none + path("absent")));
  EXPECT_TRUE(contains(error_of("absent/below"), none));
  EXPECT_TRUE(contains(load_error({.paths = {""}}), none));
  const std::string below = error_of("file/below"), slash = error_of("file/");
  EXPECT_TRUE(contains(below, path("file/below") + ": Not a directory")) << below;
  EXPECT_TRUE(contains(slash, path("file/") + ": Not a directory")) << slash;
  EXPECT_TRUE(contains(error_of(std::string(300, 'n')), "File name too long"));
  const std::string zero = error_of(std::string("file\0x", 6));
  EXPECT_TRUE(contains(zero, "file\\x00x")) << zero;
}

TEST_F(FindFilesTest, NothingToTrainOnSaysWhatWasLeftOut) {
  write("only/.hidden", "x");
  write("empty", "");
  fs::create_directories(path("none"));
  const std::string only = error_of("only"), empty = error_of("empty"), none = error_of("none");
  EXPECT_TRUE(contains(only, "no bytes in " + path("only"))) << only;
  EXPECT_TRUE(contains(only, "hidden: 1 (" + path("only/.hidden"))) << only;
  EXPECT_TRUE(contains(empty, "empty: 1 (" + path("empty"))) << empty;
  EXPECT_EQ(none, "[text] no bytes in " + path("none"));
}

TEST_F(FindFilesTest, PathsAreBytes) {
  write("d/caf\xe9", "one ");
  write("d/a\nb", "two");
  const Dataset data = load({"d"});
  EXPECT_EQ(text(data.train), "twoone ");
  EXPECT_EQ(text(load({"d/caf\xe9"}).train), "one ");
  EXPECT_TRUE(contains(error_of("d/caf\xe8"), "caf\\xe8"));
  fs::create_symlink("nowhere\xff", path("d/\xff"));
  EXPECT_EQ(short_notes(load({"d"}), folder_.string()),
            (Notes{"links that lead nowhere: 1 (/d/\\xff)"}));
}

// As a user whom permissions bind.
class AnotherUser {
 public:
  AnotherUser() {
    if (::geteuid() == 0 && ::seteuid(65534) != 0) std::abort();
  }
  ~AnotherUser() {
    if (::getuid() == 0 && ::seteuid(0) != 0) std::abort();
  }
};

TEST_F(FindFilesTest, WhatMayNotBeReadIsSaid) {
  write("d/file", "F");
  write("d/secret", "S");
  write("d/closed/x", "X");
  fs::permissions(path("d/secret"), fs::perms::none);
  fs::permissions(path("d/closed"), fs::perms::none);
  {
    const AnotherUser user;
    const Dataset data = load({"d"});
    EXPECT_EQ(text(data.train), "F");
    EXPECT_EQ(
        short_notes(data, folder_.string()),
        (Notes{"unreadable: 2 (/d/closed: Permission denied, /d/secret: Permission denied)"}));
    EXPECT_TRUE(contains(error_of("d/secret"), path("d/secret") + ": Permission denied"));
    EXPECT_TRUE(contains(error_of("d/closed"), path("d/closed") + ": Permission denied"));
    const std::string below = error_of("d/closed/x");
    EXPECT_TRUE(contains(below, path("d/closed/x") + ": Permission denied")) << below;
  }
  fs::permissions(path("d/closed"), fs::perms::owner_all);
}

}  // namespace
}  // namespace lace
