#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <sys/stat.h>
#include <sys/types.h>

#include "lace/data.h"

namespace lace {

// A regular file as it was found.
struct FoundFile {
  std::string path;
  int64_t bytes = 0;
  dev_t device = 0;
  ino_t inode = 0;
  int64_t modified_ns = 0;  // when its content was changed last
};
FoundFile found_file(const std::string& path, const struct stat& info);

// An open file.
class OpenFile {
 public:
  explicit OpenFile(int descriptor);  // closes it in the end
  ~OpenFile();
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  bool is(const FoundFile& file) const { return file.device == device_ && file.inode == inode_; }

  // Copies bytes [offset, offset + out.size()). Throws lace::Error naming `file`, which this is, if
  // it is shorter by now or cannot be read.
  void read(const FoundFile& file, int64_t offset, std::span<uint8_t> out) const;

 private:
  int descriptor_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

// Keeps those files open that were read last: thousands of files need few descriptors. Safe to use
// from several threads.
class OpenFiles {
 public:
  static constexpr size_t kMost = 64;

  // Opens the file if it is not. Never waits, whatever stands at its path by now. Where the process
  // may open no more files, others of this object are closed first. Throws lace::Error if the file
  // cannot be opened, or another one stands there.
  std::shared_ptr<const OpenFile> get(const FoundFile& file);

 private:
  std::mutex mutex_;
  std::vector<std::shared_ptr<const OpenFile>> files_;  // the one that was used last is last
};

// The bytes of a file, read when they are asked for.
class FileSource : public ByteSource {
 public:
  FileSource(FoundFile file, std::shared_ptr<OpenFiles> open_files)
      : file_(std::move(file)), open_files_(std::move(open_files)) {}
  void read(int64_t offset, std::span<uint8_t> out) const override {
    open_files_->get(file_)->read(file_, offset, out);
  }

 private:
  FoundFile file_;
  std::shared_ptr<OpenFiles> open_files_;
};

}  // namespace lace
