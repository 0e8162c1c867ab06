#include "train/checkpoint.h"

#include <cmath>
#include <span>

#include <ATen/ATen.h>
#include <sys/stat.h>

#include "core/bounded_json.h"
#include "train/files.h"
#include "train/hash.h"

namespace lace::train {
namespace {

const std::string kHeaderKey = "xxh3", kTensorKey = "xxh3:";

const char* safetensors_dtype(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return "F32";
    case at::kDouble:
      return "F64";
    case at::kBFloat16:
      return "BF16";
    case at::kHalf:
      return "F16";
    default:
      throw Error(concat("[checkpoint] tensors are float32, float64, float16 or bfloat16, got ",
                         at::toString(type)));
  }
}

// Where the digits of the header's own checksum stand in its text; npos if it has none. Quotes
// inside of JSON strings are escaped: nothing else reads like this.
size_t header_digits(const std::string& text) {
  const std::string key = "\"" + kHeaderKey + "\":\"";
  const size_t found = text.find(key);
  return found == std::string::npos || found + key.size() + 16 > text.size() ? std::string::npos
                                                                             : found + key.size();
}

// The header's text with `metadata`, as long whatever the checksums are.
std::string header_text(const std::vector<NamedParameter>& tensors,
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
  return text;
}

std::span<const uint8_t> as_bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

uint64_t header_hash(std::string text, size_t digits) {
  text.replace(digits, 16, 16, '0');
  return hash64(as_bytes(text));
}

// The header's text of an open file; "" if the file is too short for it.
std::string read_header_text(std::ifstream& file) {
  unsigned char prefix[8] = {};
  file.read(reinterpret_cast<char*>(prefix), sizeof prefix);
  uint64_t length = 0;
  for (size_t i = 0; i < 8; ++i) length |= uint64_t{prefix[i]} << (8 * i);
  file.seekg(0, std::ios::end);
  if (!file || length > static_cast<uint64_t>(file.tellg()) - 8) return "";
  std::string text(length, '\0');
  file.seekg(8);
  file.read(text.data(), static_cast<std::streamsize>(length));
  return file ? text : "";
}

// What tells files apart that bear one name after the other.
std::pair<dev_t, ino_t> identity(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 ? std::pair(info.st_dev, info.st_ino)
                                          : std::pair<dev_t, ino_t>();
}

}  // namespace

void write_safetensors(const std::string& path, const std::vector<NamedParameter>& tensors,
                       const std::map<std::string, std::string>& metadata,
                       const std::string& keep_old_as) {
  std::map<std::string, std::string> checked = metadata;
  checked[kHeaderKey] = hex64(0);
  for (const NamedParameter& entry : tensors) checked[kTensorKey + entry.name] = hex64(0);
  std::string text = header_text(tensors, checked);
  char length[8];
  for (size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i) & 0xff);
  AtomicFile file(path);
  file.write(length);
  file.write({text.data(), text.size()});
  for (const NamedParameter& entry : tensors) {
    const at::Tensor contiguous = entry.tensor.detach().contiguous().cpu();
    const std::span bytes(static_cast<const uint8_t*>(contiguous.const_data_ptr()),
                          contiguous.nbytes());
    checked[kTensorKey + entry.name] = hex64(hash64(bytes));
    file.write({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }
  text = header_text(tensors, checked);
  const size_t digits = header_digits(text);
  text.replace(digits, 16, hex64(header_hash(text, digits)));
  file.overwrite(sizeof length, {text.data(), text.size()});
  file.commit(keep_old_as);
}

CheckpointFile::CheckpointFile(const std::string& path) : path_(path) {
  std::pair<dev_t, ino_t> before, after;
  std::string text;
  do {  // again if another file took the name between the two openings
    before = identity(path);
    file_ = std::ifstream(path, std::ios::binary);
    text = read_header_text(file_);
    const size_t digits = header_digits(text);
    LACE_CHECK(
        digits == std::string::npos || text.substr(digits, 16) == hex64(header_hash(text, digits)),
        "[checkpoint] the header of ", path, " is damaged: its checksum does not fit");
    header_ = read_safetensors_header(path);
    after = identity(path);
  } while (before != after);
  for (const auto& [key, value] : header_.metadata) {
    LACE_CHECK(!key.starts_with(kTensorKey) || has_checksums(), "[checkpoint] the header of ", path,
               " is damaged: its checksum is missing");
  }
}

std::vector<uint8_t> CheckpointFile::verified_bytes(const std::string& name,
                                                    const SafetensorsHeader::Tensor& tensor) {
  std::vector<uint8_t> bytes(static_cast<size_t>(tensor.bytes));
  file_.clear();
  file_.seekg(tensor.offset);
  file_.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  LACE_CHECK(file_.good(), "[checkpoint] cannot read ", name, " of ", path_);
  if (!has_checksums()) return bytes;
  const auto expected = header_.metadata.find(kTensorKey + name);
  const std::string found = hex64(hash64(bytes));
  LACE_CHECK(expected != header_.metadata.end() && expected->second == found, "[checkpoint] ", name,
             " of ", path_, " is damaged: its checksum is ", found, ", ",
             expected == header_.metadata.end() ? "none" : expected->second, " was written");
  return bytes;
}

const SafetensorsHeader::Tensor& CheckpointFile::find(const NamedParameter& entry) const {
  const auto found = header_.tensors.find(entry.name);
  LACE_CHECK(found != header_.tensors.end(), "[checkpoint] ", path_, " has no tensor ", entry.name);
  const SafetensorsHeader::Tensor& stored = found->second;
  LACE_CHECK(stored.dtype == safetensors_dtype(entry.tensor.scalar_type()), "[checkpoint] ",
             entry.name, " is ", stored.dtype, " in ", path_, ", expected ",
             safetensors_dtype(entry.tensor.scalar_type()));
  LACE_CHECK(at::IntArrayRef(stored.shape) == entry.tensor.sizes(), "[checkpoint] ", entry.name,
             " is ", at::IntArrayRef(stored.shape), " in ", path_, ", expected ",
             entry.tensor.sizes());
  return stored;
}

std::vector<std::string> CheckpointFile::names() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : header_.tensors) names.push_back(name);
  return names;
}

at::Tensor CheckpointFile::read(const std::string& name) {
  const auto found = header_.tensors.find(name);
  LACE_CHECK(found != header_.tensors.end(), "[checkpoint] ", path_, " has no tensor ", name);
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
    if (found->second.dtype != safetensors_dtype(type)) continue;
    std::vector<uint8_t> bytes = verified_bytes(name, found->second);
    return at::from_blob(bytes.data(), found->second.shape, at::TensorOptions().dtype(type))
        .clone();
  }
  throw Error(concat("[checkpoint] ", name, " of ", path_, " must be F32, F64, F16 or BF16, got ",
                     found->second.dtype));
}

void CheckpointFile::verify() {
  for (const auto& [name, tensor] : header_.tensors) verified_bytes(name, tensor);
}

void CheckpointFile::read(const std::vector<NamedParameter>& tensors) {
  for (const NamedParameter& entry : tensors) verified_bytes(entry.name, find(entry));
  const at::NoGradGuard no_grad;
  for (const NamedParameter& entry : tensors) {
    if (entry.tensor.is_meta()) continue;
    const SafetensorsHeader::Tensor& stored = find(entry);
    std::vector<uint8_t> bytes = verified_bytes(entry.name, stored);
    const auto options = at::TensorOptions().dtype(entry.tensor.scalar_type());
    entry.tensor.copy_(at::from_blob(bytes.data(), stored.shape, options));
  }
}

CheckpointState::CheckpointState(const CheckpointFile& file) : path_(file.path()) {
  const auto found = file.metadata().find("lace");
  if (found != file.metadata().end())
    json_ = parse_json(found->second, concat("[checkpoint] the state in ", path_));
  const auto format = json_.is_object() ? json_.find("format") : json_.end();
  const bool known = json_.is_object() && format != json_.end() && (*format == 1 || *format == 2);
  LACE_CHECK(known, "[checkpoint] ", path_, " is no lace checkpoint of format 1 or 2");
  LACE_CHECK(*format == 1 || file.has_checksums(), "[checkpoint] the header of ", path_,
             " is damaged: its checksums are missing");
}

int64_t CheckpointState::count(const std::string& key) const {
  const auto value = json_.find(key);
  LACE_CHECK(value != json_.end() && value->is_number_integer() &&
                 (value->is_number_unsigned() ? value->get<uint64_t>() < uint64_t{1} << 62
                                              : value->get<int64_t>() >= 0),
             "[checkpoint] ", key, " of ", path_, " must be a whole number of at least 0, got ",
             value == json_.end() ? "nothing" : value->dump());
  return value->get<int64_t>();
}

double CheckpointState::number(const std::string& key) const {
  const auto value = json_.find(key);
  LACE_CHECK(value != json_.end() && value->is_number() && std::isfinite(value->get<double>()),
             "[checkpoint] ", key, " of ", path_, " must be a number, got ",
             value == json_.end() ? "nothing" : value->dump());
  return value->get<double>();
}

}  // namespace lace::train
