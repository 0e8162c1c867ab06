#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace lace {

// What tells one content of a file from another without reading it.
struct FileIdentity {
  uint64_t device = 0, inode = 0;
  int64_t bytes = 0;
  int64_t modified_ns = 0, changed_ns = 0;  // of the content; of content, owner, name or mode

  // Whether the file was last changed so long ago that a change to come will show: times of a file
  // system advance in steps of some milliseconds, within which two contents look alike.
  bool settled() const;

  bool operator==(const FileIdentity&) const = default;
};

// Of the file that `path` names now; nothing if there is none.
std::optional<FileIdentity> identity_of(const std::string& path);

// Reads up to `count` bytes from byte `offset` of an open file on, and returns how many: fewer
// where the file ends before. −1, and errno, if it cannot be read.
int64_t read_at(int descriptor, int64_t offset, void* to, int64_t count);

// A regular file that is open for reading: what it gives belongs to one file, also when its path
// comes to name another.
class RegularFile {
 public:
  // room: the word in brackets with which errors begin. Throws lace::Error if there is no such
  // file, if it is a folder, a pipe or a device, or if it cannot be read.
  RegularFile(const std::string& path, std::string room);
  ~RegularFile();
  RegularFile(const RegularFile&) = delete;
  RegularFile& operator=(const RegularFile&) = delete;

  // As the file was when it was opened.
  const FileIdentity& identity() const { return identity_; }
  int64_t bytes() const { return identity_.bytes; }
  // Fills `to` with `count` bytes from byte `offset` on. Throws lace::Error if they are not there.
  void read(int64_t offset, void* to, int64_t count) const;

 private:
  std::string shown_, room_;
  int fd_ = -1;
  FileIdentity identity_;
};

}  // namespace lace
