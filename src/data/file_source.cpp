#include "data/file_source.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <unistd.h>

#include <sys/stat.h>

#include "core/regular_file.h"

namespace lace {

FoundFile found_file(const std::string& path, const struct stat& info) {
  return {path, info.st_size, info.st_dev, info.st_ino,
          info.st_mtim.tv_sec * int64_t{1'000'000'000} + info.st_mtim.tv_nsec};
}

OpenFile::OpenFile(int descriptor) : descriptor_(descriptor) {
  struct stat info {};
  if (::fstat(descriptor, &info) != 0 || !S_ISREG(info.st_mode)) return;
  device_ = info.st_dev;
  inode_ = info.st_ino;
}

OpenFile::~OpenFile() { ::close(descriptor_); }

void OpenFile::read(const FoundFile& file, int64_t offset, std::span<uint8_t> out) const {
  const auto wanted = static_cast<int64_t>(out.size());
  const int64_t got = read_at(descriptor_, offset, out.data(), wanted);
  LACE_CHECK(got >= 0, "[data] cannot read ", path_text(file.path), ": ", std::strerror(errno));
  if (got == wanted) return;
  struct stat info {};
  ::fstat(descriptor_, &info);
  throw Error(concat("[data] ", path_text(file.path), " had ", file.bytes,
                     " bytes when it was found and has ", info.st_size, " now"));
}

std::shared_ptr<const OpenFile> OpenFiles::get(const FoundFile& file) {
  const std::lock_guard lock(mutex_);
  const auto found =
      std::find_if(files_.begin(), files_.end(), [&](const auto& open) { return open->is(file); });
  if (found != files_.end()) {
    std::rotate(found, found + 1, files_.end());
    return files_.back();
  }
  if (files_.size() == kMost) files_.erase(files_.begin());
  for (;;) {
    // Without O_NONBLOCK, a pipe that has taken the file's place would wait for a writer.
    const int descriptor = ::open(file.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (descriptor >= 0) {
      auto open = std::make_shared<const OpenFile>(descriptor);
      LACE_CHECK(open->is(file), "[data] ", path_text(file.path),
                 " is another file than the one that was found there");
      files_.push_back(std::move(open));
      return files_.back();
    }
    const bool too_many = errno == EMFILE || errno == ENFILE;
    LACE_CHECK(too_many && !files_.empty(), "[data] cannot open ", path_text(file.path), ": ",
               std::strerror(errno));
    files_.erase(files_.begin());
  }
}

}  // namespace lace
