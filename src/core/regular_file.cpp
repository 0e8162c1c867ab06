#include "core/regular_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include <sys/stat.h>

#include "lace/error.h"

#include "core/safe_text.h"

namespace lace {
namespace {

int64_t nanoseconds(const timespec& time) {
  return static_cast<int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

FileIdentity identity_from(const struct stat& status) {
  return {static_cast<uint64_t>(status.st_dev), static_cast<uint64_t>(status.st_ino),
          static_cast<int64_t>(status.st_size), nanoseconds(status.st_mtim),
          nanoseconds(status.st_ctim)};
}

}  // namespace

bool FileIdentity::settled() const {
  constexpr int64_t kSteps_ns = 50'000'000;  // several steps of the slowest usual clock, of 10 ms
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return nanoseconds(now) - std::max(modified_ns, changed_ns) > kSteps_ns;
}

std::optional<FileIdentity> identity_of(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return std::nullopt;
  return identity_from(status);
}

int64_t read_at(int descriptor, int64_t offset, void* to, int64_t count) {
  auto* bytes = static_cast<char*>(to);
  int64_t done = 0;
  while (done < count) {
    const ssize_t got =
        ::pread(descriptor, bytes + done, static_cast<size_t>(count - done), offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -1;
    if (got == 0) break;
    done += got;
  }
  return done;
}

RegularFile::RegularFile(const std::string& path, std::string room)
    : shown_(printable(path)), room_(std::move(room)) {
  struct stat status {};
  const int found = ::stat(path.c_str(), &status);
  LACE_CHECK(found == 0 || (errno != ENOENT && errno != ENOTDIR), "[", room_,
             "] file must exist, got ", shown_);
  // Before it is opened, too: a pipe or a device may do something when it is.
  LACE_CHECK(found != 0 || S_ISREG(status.st_mode), "[", room_,
             "] file must be a regular file, got ", shown_);
  if (found == 0) fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  LACE_CHECK(fd_ >= 0, "[", room_, "] file must be readable, got ", shown_, ": ",
             std::strerror(errno));
  const bool regular = ::fstat(fd_, &status) == 0 && S_ISREG(status.st_mode);
  if (!regular) ::close(fd_);
  LACE_CHECK(regular, "[", room_, "] file must be a regular file, got ", shown_);
  identity_ = identity_from(status);
}

RegularFile::~RegularFile() { ::close(fd_); }

void RegularFile::read(int64_t offset, void* to, int64_t count) const {
  const int64_t got = read_at(fd_, offset, to, count);
  LACE_CHECK(got >= 0, "[", room_, "] file must be readable, got ", shown_, ": ",
             std::strerror(errno));
  LACE_CHECK(got == count, "[", room_, "] file must have at least ", offset + count, " bytes, got ",
             offset + got, ": ", shown_);
}

}  // namespace lace
