#include "core/safetensors.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include "lace/error.h"

namespace lace {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr int64_t kMaxElements = int64_t{1} << 55;

constexpr std::array<std::pair<std::string_view, int64_t>, 15> kDTypes{{
    {"BOOL", 1},
    {"U8", 1},
    {"I8", 1},
    {"F8_E4M3", 1},
    {"F8_E5M2", 1},
    {"U16", 2},
    {"I16", 2},
    {"F16", 2},
    {"BF16", 2},
    {"U32", 4},
    {"I32", 4},
    {"F32", 4},
    {"U64", 8},
    {"I64", 8},
    {"F64", 8},
}};

// Bytes of one element; 0 for a dtype that this list does not know.
int64_t element_bytes(std::string_view dtype) {
  for (const auto& [name, bytes] : kDTypes) {
    if (name == dtype) return bytes;
  }
  return 0;
}

int64_t non_negative(const Json& value, const std::string& where) {
  LACE_CHECK(value.is_number_unsigned() && value.get<uint64_t>() < uint64_t{1} << 62, where,
             " must be a non-negative integer, got ", value.dump());
  return value.get<int64_t>();
}

SafetensorsHeader::Tensor parse_tensor(const Json& value, int64_t data_begin, int64_t file_bytes,
                                       const std::string& where) {
  LACE_CHECK(value.is_object() && value.contains("dtype") && value["dtype"].is_string() &&
                 value.contains("shape") && value["shape"].is_array() &&
                 value.contains("data_offsets") && value["data_offsets"].is_array() &&
                 value["data_offsets"].size() == 2,
             where, " must have dtype, shape and two data_offsets, got ", value.dump());
  SafetensorsHeader::Tensor tensor;
  tensor.dtype = value["dtype"].get<std::string>();
  int64_t elements = 1;
  for (const Json& size : value["shape"]) {
    tensor.shape.push_back(non_negative(size, where + " shape"));
    LACE_CHECK(tensor.shape.back() == 0 || elements <= kMaxElements / tensor.shape.back(), where,
               " shape must stay below 2^55 elements, got ", value["shape"].dump());
    elements *= tensor.shape.back();
  }
  const int64_t begin = non_negative(value["data_offsets"][0], where + " data_offsets");
  const int64_t end = non_negative(value["data_offsets"][1], where + " data_offsets");
  LACE_CHECK(begin <= end && end <= file_bytes - data_begin, where, " must lie inside the ",
             file_bytes - data_begin, " bytes of data, got ", value["data_offsets"].dump());
  tensor.offset = data_begin + begin;
  tensor.bytes = end - begin;
  const int64_t element = element_bytes(tensor.dtype);
  LACE_CHECK(element == 0 || tensor.bytes == elements * element, where, " must have ",
             elements * element, " bytes (", tensor.dtype, " ", value["shape"].dump(), "), got ",
             tensor.bytes);
  return tensor;
}

SafetensorsHeader parse_header(const Json& json, int64_t data_begin, int64_t file_bytes,
                               const std::string& file) {
  LACE_CHECK(json.is_object(), "[safetensors] header of ", file, " must be a JSON object");
  SafetensorsHeader header;
  for (const auto& [name, value] : json.items()) {
    if (name != "__metadata__") {
      const std::string where = "[safetensors] tensor " + name + " of " + file;
      header.tensors[name] = parse_tensor(value, data_begin, file_bytes, where);
      continue;
    }
    LACE_CHECK(value.is_object(), "[safetensors] __metadata__ of ", file, " must be an object");
    for (const auto& [key, text] : value.items()) {
      LACE_CHECK(text.is_string(), "[safetensors] __metadata__ of ", file,
                 " must hold strings, got ", text.dump(), " for ", key);
      header.metadata[key] = text.get<std::string>();
    }
  }
  return header;
}

std::ifstream open(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  LACE_CHECK(in.good(), "[safetensors] file must be readable, got ", file);
  return in;
}

}  // namespace

SafetensorsHeader read_safetensors_header(const std::string& file) {
  std::error_code error;
  LACE_CHECK(std::filesystem::exists(file, error), "[safetensors] file must exist, got ", file);
  LACE_CHECK(std::filesystem::is_regular_file(file, error),
             "[safetensors] file must be a regular file, got ", file);
  const auto file_bytes = static_cast<int64_t>(std::filesystem::file_size(file, error));
  std::ifstream in = open(file);
  std::array<char, 8> prefix{};
  LACE_CHECK(in.read(prefix.data(), prefix.size()).good(),
             "[safetensors] file must have at least 8 bytes, got ", file);
  uint64_t length = 0;
  for (size_t byte = 0; byte < prefix.size(); ++byte) {
    length |= uint64_t{static_cast<unsigned char>(prefix[byte])} << (8 * byte);
  }
  LACE_CHECK(length <= static_cast<uint64_t>(std::min(kMaxHeaderBytes, file_bytes - 8)),
             "[safetensors] header of ", file, " must fit into the file's ", file_bytes,
             " bytes, got ", length);
  std::string text(length, '\0');
  LACE_CHECK(in.read(text.data(), static_cast<std::streamsize>(length)).good(),
             "[safetensors] header must be readable, got ", file);
  const Json json = Json::parse(text, nullptr, false);
  LACE_CHECK(!json.is_discarded(), "[safetensors] header of ", file, " must be JSON");
  return parse_header(json, 8 + static_cast<int64_t>(length), file_bytes, file);
}

std::vector<uint8_t> read_safetensors_bytes(const std::string& file,
                                            const SafetensorsHeader::Tensor& tensor) {
  std::ifstream in = open(file);
  std::vector<uint8_t> bytes(static_cast<size_t>(tensor.bytes));
  in.seekg(tensor.offset);
  in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  LACE_CHECK(in.good(), "[safetensors] file must be readable, got ", file);
  return bytes;
}

}  // namespace lace
