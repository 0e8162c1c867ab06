#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/stat.h>

#include "lace/data.h"

namespace lace {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMapFromBytes = 1 << 18;  // smaller files are read: mappings are few
constexpr int64_t kSplitPeriod = 20;

class FileDescriptor {
 public:
  explicit FileDescriptor(const std::string& path)
      : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    LACE_CHECK(fd_ >= 0, "[text] cannot open ", path, ": ", std::strerror(errno));
  }
  ~FileDescriptor() { ::close(fd_); }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

// Appends the bytes of one file to the stream.
void append_file(ByteStream& stream, const std::string& path) {
  const FileDescriptor file(path);
  struct stat info {};
  LACE_CHECK(::fstat(file.get(), &info) == 0, "[text] cannot stat ", path, ": ",
             std::strerror(errno));
  const auto size = static_cast<size_t>(info.st_size);
  if (size == 0) return;
  if (info.st_size >= kMapFromBytes) {
    void* memory = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
    LACE_CHECK(memory != MAP_FAILED, "[text] cannot map ", path, ": ", std::strerror(errno));
    std::shared_ptr<const void> owner(
        memory, [size](const void* p) { ::munmap(const_cast<void*>(p), size); });
    stream.append({static_cast<const uint8_t*>(memory), size}, std::move(owner));
    return;
  }
  auto bytes = std::make_shared<std::vector<uint8_t>>(size);
  size_t filled = 0;
  while (filled < size) {
    const ssize_t got = ::read(file.get(), bytes->data() + filled, size - filled);
    LACE_CHECK(got >= 0 || errno == EINTR, "[text] cannot read ", path, ": ", std::strerror(errno));
    if (got == 0) break;  // shortened since fstat
    if (got > 0) filled += static_cast<size_t>(got);
  }
  stream.append({bytes->data(), filled}, bytes);
}

void list_folder(const fs::path& folder, std::vector<std::string>& files) {
  for (auto it = fs::recursive_directory_iterator(folder); it != fs::recursive_directory_iterator();
       ++it) {
    if (it->path().filename().native().starts_with('.')) {
      if (it->is_directory()) it.disable_recursion_pending();
      continue;
    }
    if (fs::is_regular_file(it->symlink_status())) files.push_back(it->path().native());
  }
}

std::vector<std::string> list_files(const std::vector<std::string>& paths) {
  LACE_CHECK(!paths.empty(), "[text] no paths are given");
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code failure;
    const fs::file_status status = fs::status(path, failure);
    LACE_CHECK(fs::exists(status), "[text] no such file or folder: ", path);
    try {
      if (fs::is_directory(status)) {
        list_folder(path, files);
      } else {
        files.push_back(path);
      }
    } catch (const fs::filesystem_error& error) {
      throw Error(concat("[text] cannot list ", path, ": ", error.code().message()));
    }
  }
  std::sort(files.begin(), files.end());
  files.erase(std::unique(files.begin(), files.end()), files.end());
  return files;
}

}  // namespace

ByteStream::ByteStream(std::vector<uint8_t> bytes) {
  auto owned = std::make_shared<const std::vector<uint8_t>>(std::move(bytes));
  append({owned->data(), owned->size()}, owned);
}

void ByteStream::append(std::span<const uint8_t> bytes, std::shared_ptr<const void> owner) {
  if (bytes.empty()) return;
  pieces_.push_back(bytes);
  starts_.push_back(size_);
  owners_.push_back(std::move(owner));
  size_ += static_cast<int64_t>(bytes.size());
}

void ByteStream::read(int64_t offset, std::span<uint8_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  LACE_CHECK(offset >= 0 && offset + count <= size_, "[data] bytes ", offset, " to ",
             offset + count, " are not within a stream of ", size_);
  if (count == 0) return;
  auto piece = static_cast<size_t>(std::upper_bound(starts_.begin(), starts_.end(), offset) -
                                   starts_.begin() - 1);
  for (int64_t done = 0; done < count; ++piece) {
    const auto skip = static_cast<size_t>(offset + done - starts_[piece]);
    const size_t take = std::min(pieces_[piece].size() - skip, static_cast<size_t>(count - done));
    std::memcpy(out.data() + done, pieces_[piece].data() + skip, take);
    done += static_cast<int64_t>(take);
  }
}

ByteStream ByteStream::slice(int64_t begin, int64_t end) const {
  LACE_CHECK(0 <= begin && begin <= end && end <= size_, "[data] slice ", begin, " to ", end,
             " is not within a stream of ", size_);
  ByteStream result;
  for (size_t i = 0; i < pieces_.size(); ++i) {
    const int64_t first = std::max<int64_t>(begin - starts_[i], 0);
    const int64_t last =
        std::min<int64_t>(end - starts_[i], static_cast<int64_t>(pieces_[i].size()));
    if (first >= last) continue;
    result.append(pieces_[i].subspan(static_cast<size_t>(first), static_cast<size_t>(last - first)),
                  owners_[i]);
  }
  return result;
}

TextData load_text(const TextOptions& options) {
  LACE_CHECK(options.validation_fraction >= 0 && options.test_fraction >= 0 &&
                 options.validation_fraction + options.test_fraction < 1,
             "[text] the fractions for validation and test must be at least 0 and leave some for "
             "train, got ",
             options.validation_fraction, " and ", options.test_fraction);
  LACE_CHECK(options.record_bytes >= 1, "[text] record_bytes must be at least 1, got ",
             options.record_bytes);
  const std::vector<std::string> files = list_files(options.paths);
  TextData data;
  data.files = static_cast<int64_t>(files.size());
  if (options.whole) {
    for (const std::string& file : files) append_file(data.train, file);
  } else if (data.files > kSplitPeriod) {
    for (int64_t i = 0; i < data.files; ++i) {
      const bool test = i % kSplitPeriod == kSplitPeriod - 1;
      const bool validation = i > 0 && i % kSplitPeriod == 0;
      append_file(test         ? data.test
                  : validation ? data.validation
                               : data.train,
                  files[static_cast<size_t>(i)]);
    }
  } else {
    ByteStream all;
    for (const std::string& file : files) append_file(all, file);
    const auto share = [&](double fraction) {
      const auto bytes = static_cast<int64_t>(static_cast<double>(all.size()) * fraction);
      return bytes / options.record_bytes * options.record_bytes;
    };
    const int64_t test = share(options.test_fraction);
    const int64_t validation = share(options.validation_fraction);
    const int64_t train =
        all.size() / options.record_bytes * options.record_bytes - test - validation;
    data.train = all.slice(0, train);
    data.validation = all.slice(train, train + validation);
    data.test = all.slice(train + validation, train + validation + test);
  }
  LACE_CHECK(data.train.size() > 0, "[text] no bytes below ", options.paths.front());
  return data;
}

}  // namespace lace
