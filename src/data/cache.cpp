#include "data/cache.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>

#include <fcntl.h>
#include <unistd.h>

#include <sys/file.h>
#include <sys/stat.h>

#define XXH_INLINE_ALL  // no library to link
#include <xxhash.h>

namespace lace {
namespace {

namespace fs = std::filesystem;

constexpr int kVersion = 1;  // of what lace makes of files
constexpr size_t kMaxStem = 60;

std::optional<FoundFile> find(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return std::nullopt;
  return found_file(path, info);
}

// A file that others of this name wait for; it goes unless it is renamed.
class Unfinished {
 public:
  explicit Unfinished(std::string path) : path_(std::move(path)) {
    for (;;) {
      fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
      if (fd_ < 0) fail("create");
      while (::flock(fd_, LOCK_EX) != 0 && errno == EINTR) continue;
      // Whoever had the lock before has renamed or removed the file since it was opened here.
      struct stat own {
      }, named{};
      if (::fstat(fd_, &own) == 0 && ::stat(path_.c_str(), &named) == 0 &&
          own.st_dev == named.st_dev && own.st_ino == named.st_ino)
        break;
      ::close(fd_);
    }
  }
  ~Unfinished() {
    if (!done_) ::unlink(path_.c_str());
    ::close(fd_);
  }
  Unfinished(const Unfinished&) = delete;
  Unfinished& operator=(const Unfinished&) = delete;

  void empty() {
    if (::ftruncate(fd_, 0) != 0) fail("empty");
  }
  void write(std::span<const uint8_t> bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail("write");
      bytes = bytes.subspan(static_cast<size_t>(written));
    }
  }
  void rename_to(const std::string& path) {
    if (::fsync(fd_) != 0) fail("write");
    if (::rename(path_.c_str(), path.c_str()) != 0) fail("rename");
    done_ = true;
  }

 private:
  [[noreturn]] void fail(const char* what) const {
    throw Error(concat("[cache] cannot ", what, " ", path_text(path_), ": ", std::strerror(errno),
                       "; data.cache names another folder"));
  }

  std::string path_;
  int fd_ = -1;
  bool done_ = false;
};

}  // namespace

std::string cache_name(const std::string& stem, const std::string& how,
                       std::span<const FoundFile> files) {
  std::string key = concat(kVersion, " ", how);
  for (const FoundFile& file : files) {
    std::error_code failure;
    const fs::path path = fs::absolute(file.path, failure).lexically_normal();
    key += concat('\0', file.bytes, ' ', file.modified_ns, ' ', path.native());
  }
  const XXH128_hash_t hash = XXH3_128bits(key.data(), key.size());
  std::string name;
  for (const char c : stem.substr(0, kMaxStem)) {
    const bool plain = ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || ('0' <= c && c <= '9') ||
                       c == '.' || c == '-' || c == '_';
    name += plain && !(name.empty() && c == '.') ? c : '_';
  }
  name += '-';
  for (const uint64_t half : {hash.high64, hash.low64})
    for (int shift = 60; shift >= 0; shift -= 4) name += "0123456789abcdef"[half >> shift & 15];
  return name;
}

FoundFile cached_file(const std::string& folder, const std::string& name, const std::string& why,
                      const std::function<void(const WriteBytes& write)>& make) {
  LACE_CHECK(!folder.empty(), "[cache] ", why, ": data.cache must name a folder to keep that in");
  const std::string path = (fs::path(folder) / name).native();
  if (const auto file = find(path)) return *file;
  std::error_code failure;
  fs::create_directories(folder, failure);
  LACE_CHECK(!failure, "[cache] cannot create ", path_text(folder), ": ", failure.message(),
             "; data.cache names another folder");
  Unfinished unfinished(path + ".tmp");
  if (const auto file = find(path)) return *file;  // made by whoever was waited for
  unfinished.empty();
  make([&](std::span<const uint8_t> bytes) { unfinished.write(bytes); });
  unfinished.rename_to(path);
  const auto file = find(path);
  LACE_CHECK(file, "[cache] ", path_text(path), " is gone at once");
  return *file;
}

}  // namespace lace
