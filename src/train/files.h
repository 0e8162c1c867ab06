#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

namespace lace::train {

// A file descriptor that is closed with its object.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept : fd_(other.release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return fd_; }
  // Does `path` still name this file?
  bool is_named(const std::string& path) const;
  // Writes all of `bytes` where the file stands. Throws lace::Error naming `path`.
  void write(std::span<const char> bytes, const std::string& path) const;

 private:
  int release();
  int fd_;
};

// Opens a file for writing, made if need be and left as long as it is, and locks it: the lock goes
// with the descriptor, so also when the process is killed, and nobody, this process included, holds
// it twice. Nothing if somebody does. Where the file system has no locks, none is taken.
// Throws lace::Error if the file cannot be opened.
std::optional<Descriptor> open_locked(const std::string& path);

// Gives the file at `path`, if there is one, the name `kept` too; what had that name before is
// gone. Where the file system has no hard links it loses `path`. Throws lace::Error naming both.
void keep_as(const std::string& path, const std::string& kept);

// A file that takes its name only when it is complete and on the disk: until then it stands beside
// it as PATH.tmp, which one writer at a time can have.
class AtomicFile {
 public:
  // Throws lace::Error naming the file, as all functions here.
  explicit AtomicFile(const std::string& path);
  ~AtomicFile();  // without commit(): nothing has happened

  void write(std::span<const char> bytes);
  // Writes over what stands at `offset`.
  void overwrite(int64_t offset, std::span<const char> bytes);
  // Gives the file its name. What had the name before is kept as `keep_old_as`, unless that is "";
  // at every moment the name stands for one of the two.
  void commit(const std::string& keep_old_as = "");

 private:
  std::string path_, temporary_;
  Descriptor file_;
  bool committed_ = false;
};

// Writes `text` so that `path` holds either its old content or all of the new.
void write_file_atomically(const std::string& path, const std::string& text,
                           const std::string& keep_old_as = "");

}  // namespace lace::train
