#include "data/unpack_archive.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <vector>

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <unistd.h>

#include "lace/data.h"

#include "core/safe_text.h"

namespace lace {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMostEntries = 100'000;

template <typename... Args>
void demand(bool right, const Args&... args) {
  if (!right) throw WrongContent(concat(args...));
}

class Unpacking {
 public:
  Unpacking(const std::string& archive, const std::string& to, int64_t most_bytes,
            const std::function<void(int64_t)>& progress)
      : shown_(path_text(archive)), to_(to), most_bytes_(most_bytes), progress_(progress) {
    archive_read_support_filter_gzip(reader_.get());
    archive_read_support_filter_bzip2(reader_.get());
    archive_read_support_filter_xz(reader_.get());
    archive_read_support_filter_zstd(reader_.get());
    archive_read_support_format_tar(reader_.get());
    archive_read_support_format_zip(reader_.get());
    check(archive_read_open_filename(reader_.get(), archive.c_str(), 1 << 20));
  }

  void run() {
    archive_entry* entry = nullptr;
    for (int64_t entries = 0;; ++entries) {
      const int code = archive_read_next_header(reader_.get(), &entry);
      if (code == ARCHIVE_EOF) return;
      check(code);
      demand(entries < kMostEntries, "[unpack] ", shown_, " holds more than ", kMostEntries,
             " entries");
      take(entry);
    }
  }

 private:
  // libarchive calls a warning what leaves an entry incomplete too.
  void check(int64_t code) const {
    if (code >= ARCHIVE_OK) return;
    const char* text = archive_error_string(reader_.get());
    throw WrongContent(concat("[unpack] ", shown_, " is damaged or no archive of a known kind: ",
                              printable(text != nullptr ? text : "unknown error")));
  }

  void take(archive_entry* entry) {
    const char* name = archive_entry_pathname(entry);
    const std::string text = name != nullptr ? name : "";
    const fs::path path(text);
    const auto type = archive_entry_filetype(entry);
    bool inside = !text.empty() && path.is_relative();
    for (const fs::path& part : path) inside = inside && part != "..";
    demand(inside, "[unpack] ", shown_, " holds a name that leads out of its folder: '",
           printable(text), "'");
    demand((type == AE_IFREG || type == AE_IFDIR) && archive_entry_hardlink(entry) == nullptr,
           "[unpack] ", shown_, " holds '", printable(text),
           "', which is neither a file nor a folder");
    const fs::path target = to_ / path;
    std::error_code failure;
    fs::create_directories(type == AE_IFDIR ? target : target.parent_path(), failure);
    demand(failure != std::errc::not_a_directory && failure != std::errc::file_exists, "[unpack] ",
           shown_, " holds '", printable(text), "' in what is no folder");
    LACE_CHECK(!failure, "[unpack] cannot make ", path_text(target.native()), ": ",
               failure.message());
    if (type == AE_IFREG) write(target);
  }

  void write(const fs::path& target) {
    const int descriptor =
        ::open(target.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    demand(descriptor >= 0 || (errno != EEXIST && errno != EISDIR), "[unpack] ", shown_, " holds ",
           path_text(target.filename().native()), " twice");
    LACE_CHECK(descriptor >= 0, "[unpack] cannot make ", path_text(target.native()), ": ",
               std::strerror(errno));
    const std::unique_ptr<const int, void (*)(const int*)> closer(
        &descriptor, [](const int* open) { ::close(*open); });
    for (;;) {
      const la_ssize_t count = archive_read_data(reader_.get(), chunk_.data(), chunk_.size());
      check(count);
      if (count == 0) break;
      bytes_ += count;
      demand(bytes_ <= most_bytes_, "[unpack] ", shown_, " holds more than ", most_bytes_,
             " bytes");
      for (la_ssize_t done = 0; done < count;) {
        const ssize_t written =
            ::write(descriptor, chunk_.data() + done, static_cast<size_t>(count - done));
        if (written < 0 && errno == EINTR) continue;
        LACE_CHECK(written >= 0, "[unpack] cannot write ", path_text(target.native()), ": ",
                   std::strerror(errno));
        done += written;
      }
      progress_(bytes_);
    }
    LACE_CHECK(::fsync(descriptor) == 0, "[unpack] cannot write ", path_text(target.native()), ": ",
               std::strerror(errno));
  }

  std::unique_ptr<archive, int (*)(archive*)> reader_{archive_read_new(), archive_read_free};
  std::string shown_;
  fs::path to_;
  int64_t most_bytes_, bytes_ = 0;
  std::function<void(int64_t)> progress_;
  std::vector<char> chunk_ = std::vector<char>(1 << 18);
};

}  // namespace

void unpack_archive(const std::string& archive, const std::string& to, int64_t most_bytes,
                    const std::function<void(int64_t)>& progress) {
  Unpacking(archive, to, most_bytes, progress).run();
}

}  // namespace lace
