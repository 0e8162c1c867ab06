#include "train/checkpoint.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <span>

#include <fcntl.h>
#include <unistd.h>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include "core/safetensors.h"

namespace lace::train {
namespace {

// A file that takes its name only when it is complete and on the disk.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path)
      : path_(path),
        temporary_(path + ".tmp"),
        fd_(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) {
    LACE_CHECK(fd_ >= 0, "[checkpoint] cannot create ", temporary_, ": ", std::strerror(errno));
  }
  ~AtomicFile() {
    if (fd_ < 0) return;
    ::close(fd_);
    ::unlink(temporary_.c_str());
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const char> bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      LACE_CHECK(written >= 0, "[checkpoint] cannot write ", temporary_, ": ",
                 std::strerror(errno));
      bytes = bytes.subspan(static_cast<size_t>(written));
    }
  }

  void commit() {
    const bool synced = ::fsync(fd_) == 0;
    const bool closed = ::close(std::exchange(fd_, -1)) == 0;
    LACE_CHECK(synced && closed && ::rename(temporary_.c_str(), path_.c_str()) == 0,
               "[checkpoint] cannot complete ", path_, ": ", std::strerror(errno));
    const std::string folder = std::filesystem::absolute(path_).parent_path().string();
    const int folder_fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder_fd < 0) return;
    ::fsync(folder_fd);
    ::close(folder_fd);
  }

 private:
  std::string path_, temporary_;
  int fd_;
};

const char* safetensors_dtype(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return "F32";
    case at::kDouble:
      return "F64";
    case at::kBFloat16:
      return "BF16";
    default:
      throw Error(concat("[checkpoint] tensors are float32, float64 or bfloat16, got ",
                         at::toString(type)));
  }
}

}  // namespace

void write_file_atomically(const std::string& path, const std::string& text) {
  AtomicFile file(path);
  file.write({text.data(), text.size()});
  file.commit();
}

void write_safetensors(const std::string& path, const std::vector<NamedParameter>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header;
  header["__metadata__"] = metadata;
  size_t offset = 0;
  for (const NamedParameter& entry : tensors) {
    const size_t end = offset + entry.tensor.nbytes();
    header[entry.name] = {{"dtype", safetensors_dtype(entry.tensor.scalar_type())},
                          {"shape", entry.tensor.sizes().vec()},
                          {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  char length[8];
  for (size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i) & 0xff);
  AtomicFile file(path);
  file.write(length);
  file.write({text.data(), text.size()});
  for (const NamedParameter& entry : tensors) {
    const at::Tensor contiguous = entry.tensor.detach().contiguous().cpu();
    file.write({static_cast<const char*>(contiguous.const_data_ptr()), contiguous.nbytes()});
  }
  file.commit();
}

std::map<std::string, std::string> read_safetensors(const std::string& path,
                                                    const std::vector<NamedParameter>& tensors) {
  const SafetensorsHeader header = read_safetensors_header(path);
  const at::NoGradGuard no_grad;
  for (const NamedParameter& entry : tensors) {
    const auto found = header.tensors.find(entry.name);
    LACE_CHECK(found != header.tensors.end(), "[checkpoint] ", path, " has no tensor ", entry.name);
    const SafetensorsHeader::Tensor& stored = found->second;
    LACE_CHECK(stored.dtype == safetensors_dtype(entry.tensor.scalar_type()), "[checkpoint] ",
               entry.name, " is ", stored.dtype, " in ", path, ", expected ",
               safetensors_dtype(entry.tensor.scalar_type()));
    LACE_CHECK(at::IntArrayRef(stored.shape) == entry.tensor.sizes(), "[checkpoint] ", entry.name,
               " is ", at::IntArrayRef(stored.shape), " in ", path, ", expected ",
               entry.tensor.sizes());
    std::vector<uint8_t> bytes = read_safetensors_bytes(path, stored);
    const auto options = at::TensorOptions().dtype(entry.tensor.scalar_type());
    entry.tensor.copy_(at::from_blob(bytes.data(), stored.shape, options));
  }
  return header.metadata;
}

}  // namespace lace::train
