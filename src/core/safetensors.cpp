#include "core/safetensors.h"

#include <algorithm>
#include <array>

#include "lace/error.h"

#include "core/safe_text.h"

namespace lace {
namespace {

constexpr int64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit

SafetensorsHeader read_header(const RegularFile& file, const std::string& path) {
  std::array<unsigned char, 8> prefix{};
  LACE_CHECK(file.bytes() >= 8, "[safetensors] file must have at least 8 bytes, got ", file.bytes(),
             ": ", printable(path));
  file.read(0, prefix.data(), prefix.size());
  uint64_t length = 0;
  for (size_t byte = 0; byte < prefix.size(); ++byte) {
    length |= uint64_t{prefix[byte]} << (8 * byte);
  }
  LACE_CHECK(length <= static_cast<uint64_t>(std::min(kMaxHeaderBytes, file.bytes() - 8)),
             "[safetensors] header of ", printable(path), " must fit into the file's ",
             file.bytes(), " bytes and into ", kMaxHeaderBytes, ", got ", length);
  const auto header_bytes = static_cast<int64_t>(length);
  std::string text(length, '\0');
  file.read(8, text.data(), header_bytes);
  return parse_safetensors_header(text, 8 + header_bytes, file.bytes() - 8 - header_bytes, path);
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path)
    : file_(path, "safetensors"), header_(read_header(file_, path)) {}

std::vector<uint8_t> SafetensorsFile::read(const SafetensorsHeader::Tensor& tensor) const {
  std::vector<uint8_t> bytes(static_cast<size_t>(tensor.bytes));
  file_.read(tensor.offset, bytes.data(), tensor.bytes);
  return bytes;
}

SafetensorsHeader read_safetensors_header(const std::string& file) {
  return SafetensorsFile(file).header();
}

}  // namespace lace
