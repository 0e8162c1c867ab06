#include "data/find_files.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>
#include <tuple>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include <sys/stat.h>

namespace lace {
namespace {

namespace fs = std::filesystem;

const char* kind_of(mode_t mode) {
  if (S_ISFIFO(mode)) return "a pipe";
  return S_ISSOCK(mode) ? "a socket" : "a device";
}

// Why a regular file cannot be read, or "".
std::string unreadable(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (descriptor < 0) return std::strerror(errno);
  ::close(descriptor);
  return "";
}

// The names in a folder, sorted as bytes; why they cannot be listed, or "".
std::string list_names(const std::string& folder, std::vector<std::string>& names) {
  std::error_code failure;
  for (fs::directory_iterator entry(folder, failure), end; !failure && entry != end;
       entry.increment(failure))
    names.push_back(entry->path().filename().native());
  std::sort(names.begin(), names.end());
  return failure ? failure.message() : "";
}

// Walks one of the given paths.
class Walk {
 public:
  Walk(std::vector<FoundFile>& files, LeftOut& left_out) : files_(files), left_out_(left_out) {}

  void root(const std::string& path) {
    LACE_CHECK(path.find('\0') == std::string::npos, "[data] a path holds no byte 0, got ",
               path_text(path));
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0) {
      const int failure = errno;
      const bool link = ::lstat(path.c_str(), &info) == 0 && S_ISLNK(info.st_mode);
      LACE_CHECK(failure != ENOENT || link, "[data] no such file or folder: ", path_text(path));
      LACE_CHECK(failure != ENOENT, "[data] ", path_text(path), " is a link that leads nowhere");
      throw Error(concat("[data] cannot find ", path_text(path), ": ", std::strerror(failure)));
    }
    if (S_ISDIR(info.st_mode)) {
      const std::string failure = folder(path, info);
      LACE_CHECK(failure.empty(), "[data] cannot list ", path_text(path), ": ", failure);
      return;
    }
    LACE_CHECK(S_ISREG(info.st_mode), "[data] ", path_text(path), " is ", kind_of(info.st_mode),
               ", which cannot be read at any place: give files and folders");
    const std::string failure = unreadable(path);
    LACE_CHECK(failure.empty(), "[data] cannot read ", path_text(path), ": ", failure);
    files_.push_back(found_file(path, info));
  }

 private:
  // All that is in a folder; why it cannot be listed, or "".
  std::string folder(const std::string& path, const struct stat& info) {
    if (!folders_.emplace(info.st_dev, info.st_ino).second) {  // by a link, perhaps to a parent
      left_out_.add(LeftOut::kRepeated, path);
      return "";
    }
    std::vector<std::string> names;
    const std::string failure = list_names(path, names);
    for (const std::string& name : names)
      entry(path.ends_with('/') ? path + name : path + "/" + name, name);
    return failure;
  }

  void entry(const std::string& path, const std::string& name) {
    if (name.starts_with('.')) return left_out_.add(LeftOut::kHidden, path);
    struct stat info {};
    std::string failure;
    if (::stat(path.c_str(), &info) != 0) {
      const int error = errno;
      if (error == ENOENT && ::lstat(path.c_str(), &info) == 0)
        return left_out_.add(LeftOut::kDangling, path);
      failure = std::strerror(error);
    } else if (S_ISDIR(info.st_mode)) {
      failure = folder(path, info);
    } else if (S_ISREG(info.st_mode)) {
      failure = unreadable(path);
      if (failure.empty()) files_.push_back(found_file(path, info));
    } else {
      return left_out_.add(LeftOut::kSpecial, path, kind_of(info.st_mode));
    }
    if (!failure.empty()) left_out_.add(LeftOut::kUnreadable, path, failure);
  }

  std::vector<FoundFile>& files_;
  LeftOut& left_out_;
  std::set<std::pair<dev_t, ino_t>> folders_;  // that were seen
};

}  // namespace

void LeftOut::add(Reason reason, const std::string& path, const std::string& what) {
  Tally& tally = tallies_[reason];
  constexpr int64_t kExamples = 3;
  ++tally.count;
  if (tally.count > kExamples + 1) return;
  tally.examples += tally.count == 1 ? "" : ", ";
  tally.examples += tally.count > kExamples ? "…" : path_text(path);
  if (tally.count <= kExamples && !what.empty()) tally.examples += ": " + what;
}

std::vector<std::string> LeftOut::notes() const {
  constexpr const char* kNames[kReasons] = {
      "hidden",
      "pipes, sockets and devices",
      "links that lead nowhere",
      "unreadable",
      "further names of the same",
      "empty",
      "torn records at the end of a file",
      "no images",
      "no audio",
  };
  std::vector<std::string> notes;
  for (int reason = 0; reason < kReasons; ++reason) {
    const Tally& tally = tallies_[reason];
    if (tally.count > 0)
      notes.push_back(concat(kNames[reason], ": ", tally.count, " (", tally.examples, ")"));
  }
  return notes;
}

std::vector<FoundFile> find_files(const std::vector<std::string>& paths, LeftOut& left_out) {
  LACE_CHECK(!paths.empty(), "[data] no paths are given");
  std::vector<FoundFile> files;
  for (const std::string& path : paths) Walk(files, left_out).root(path);
  std::sort(files.begin(), files.end(),
            [](const FoundFile& a, const FoundFile& b) { return a.path < b.path; });
  std::set<std::pair<dev_t, ino_t>> seen;
  std::vector<FoundFile> kept;
  kept.reserve(files.size());
  for (FoundFile& file : files) {
    if (!seen.emplace(file.device, file.inode).second) {
      left_out.add(LeftOut::kRepeated, file.path);
    } else if (file.bytes == 0) {
      left_out.add(LeftOut::kEmpty, file.path);
    } else {
      kept.push_back(std::move(file));
    }
  }
  return kept;
}

}  // namespace lace
