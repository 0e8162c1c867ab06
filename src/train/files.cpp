#include "train/files.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include <sys/file.h>
#include <sys/stat.h>

#include "lace/error.h"

namespace lace::train {
namespace {

// So that the names in the folder of `path` are on the disk too.
void sync_folder(const std::string& path) {
  const std::string folder = std::filesystem::absolute(path).parent_path().string();
  const Descriptor fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() >= 0) ::fsync(fd.get());
}

}  // namespace

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this == &other) return *this;
  if (fd_ >= 0) ::close(fd_);
  fd_ = other.release();
  return *this;
}

int Descriptor::release() { return std::exchange(fd_, -1); }

bool Descriptor::is_named(const std::string& path) const {
  struct stat own {
  }, named{};
  return ::fstat(fd_, &own) == 0 && ::stat(path.c_str(), &named) == 0 &&
         own.st_dev == named.st_dev && own.st_ino == named.st_ino;
}

void Descriptor::write(std::span<const char> bytes, const std::string& path) const {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    LACE_CHECK(written >= 0, "[files] cannot write ", path, ": ", std::strerror(errno));
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

std::optional<Descriptor> open_locked(const std::string& path) {
  while (true) {
    Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    LACE_CHECK(file.get() >= 0, "[files] cannot create ", path, ": ", std::strerror(errno));
    if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) return std::nullopt;
    // Whoever held the lock before may have renamed or removed the file since it was opened here.
    if (file.is_named(path)) return file;
  }
}

void keep_as(const std::string& path, const std::string& kept) {
  const std::string link = kept + ".tmp";
  ::unlink(link.c_str());
  if (::link(path.c_str(), link.c_str()) == 0) {
    const bool renamed = ::rename(link.c_str(), kept.c_str()) == 0;
    const int error = errno;
    ::unlink(link.c_str());  // stays where both names stood for one file already
    LACE_CHECK(renamed, "[files] cannot keep ", path, " as ", kept, ": ", std::strerror(error));
    return;
  }
  // Without hard links the name is free for a moment.
  LACE_CHECK(errno == ENOENT || ::rename(path.c_str(), kept.c_str()) == 0, "[files] cannot keep ",
             path, " as ", kept, ": ", std::strerror(errno));
}

AtomicFile::AtomicFile(const std::string& path) : path_(path), temporary_(path + ".tmp") {
  std::optional<Descriptor> file = open_locked(temporary_);
  LACE_CHECK(file, "[files] another process is writing ", temporary_);
  file_ = std::move(*file);
  LACE_CHECK(::ftruncate(file_.get(), 0) == 0, "[files] cannot empty ", temporary_, ": ",
             std::strerror(errno));
}

AtomicFile::~AtomicFile() {
  if (!committed_) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const char> bytes) { file_.write(bytes, temporary_); }

void AtomicFile::overwrite(int64_t offset, std::span<const char> bytes) {
  LACE_CHECK(::lseek(file_.get(), offset, SEEK_SET) == offset, "[files] cannot seek in ",
             temporary_, ": ", std::strerror(errno));
  write(bytes);
}

void AtomicFile::commit(const std::string& keep_old_as) {
  LACE_CHECK(::fsync(file_.get()) == 0, "[files] cannot write ", temporary_, ": ",
             std::strerror(errno));
  if (!keep_old_as.empty()) keep_as(path_, keep_old_as);
  LACE_CHECK(::rename(temporary_.c_str(), path_.c_str()) == 0, "[files] cannot rename ", temporary_,
             " to ", path_, ": ", std::strerror(errno));
  committed_ = true;
  sync_folder(path_);
}

void write_file_atomically(const std::string& path, const std::string& text,
                           const std::string& keep_old_as) {
  AtomicFile file(path);
  file.write({text.data(), text.size()});
  file.commit(keep_old_as);
}

}  // namespace lace::train
