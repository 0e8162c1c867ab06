// Any bytes unpack as an archive, or are an error of lace's own; what comes of them is files and
// folders, all in the folder that is theirs.

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>

#include <unistd.h>

#include <sys/mman.h>

#include "lace/error.h"

#include "data/unpack_archive.h"

namespace {

namespace fs = std::filesystem;

constexpr int64_t kMostBytes = 1 << 20;

void demand(bool right) {
  if (!right) std::abort();
}

// A folder of this process, in memory where there is such a place.
fs::path own_folder() {
  std::error_code failure;
  const fs::path memory = "/dev/shm";
  std::string name =
      (fs::exists(memory, failure) ? memory : fs::temp_directory_path()) / "lace-fuzz-XXXXXX";
  demand(::mkdtemp(name.data()) != nullptr);
  static const struct Remover {
    fs::path folder;
    ~Remover() { fs::remove_all(folder); }
  } remover{name};
  return name;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fs::path outer = own_folder();
  static const int archive = ::memfd_create("archive", 0);
  demand(archive >= 0 && ::ftruncate(archive, 0) == 0 &&
         ::pwrite(archive, data, size, 0) == static_cast<ssize_t>(size));
  const fs::path folder = outer / "to";
  fs::create_directory(folder);
  try {
    lace::unpack_archive("/proc/self/fd/" + std::to_string(archive), folder, kMostBytes);
  } catch (const lace::Error&) {
  }
  int64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const fs::file_type type = entry.symlink_status().type();
    demand(type == fs::file_type::regular || type == fs::file_type::directory);
    if (type == fs::file_type::regular) bytes += static_cast<int64_t>(entry.file_size());
  }
  demand(bytes <= kMostBytes);
  for (const auto& entry : fs::directory_iterator(outer)) demand(entry.path() == folder);
  fs::remove_all(folder);
  return 0;
}
