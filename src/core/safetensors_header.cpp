#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include "lace/error.h"

#include "core/safe_text.h"
#include "core/safetensors.h"

namespace lace {
namespace {

using Json = nlohmann::json;
using Tensor = SafetensorsHeader::Tensor;

constexpr int64_t kMaxElements = int64_t{1} << 55;
constexpr size_t kMaxSizes = 64;  // of a shape
constexpr uint64_t kMaxNumber = uint64_t{1} << 62;

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

std::string list_text(const std::vector<int64_t>& numbers) {
  std::string text = "[";
  for (const int64_t number : numbers) {
    if (text.size() > 1) text += ',';
    text += std::to_string(number);
  }
  return text + "]";
}

// Takes a header's JSON value by value, as the parser meets them: no tree of values is made, so
// that neither the size nor the nesting of what a file holds matters.
class HeaderReader final : public nlohmann::json_sax<Json> {
 public:
  HeaderReader(int64_t data_begin, int64_t data_bytes, const std::string& file)
      : data_begin_(data_begin), data_bytes_(data_bytes), file_(file) {}

  SafetensorsHeader take() { return std::move(header_); }

  bool null() override { wrong("null"); }
  bool boolean(bool value) override { wrong(value ? "true" : "false"); }
  bool number_float(double, const std::string& text) override { wrong(text); }
  bool binary(binary_t&) override { wrong("bytes"); }
  bool number_integer(int64_t value) override { return number(value, std::to_string(value)); }
  bool number_unsigned(uint64_t value) override {
    return number(value < kMaxNumber ? static_cast<int64_t>(value) : -1, std::to_string(value));
  }

  bool string(std::string& value) override {
    if (place_ == Place::kMetadata) {
      header_.metadata[key_] = std::move(value);
    } else if (place_ == Place::kTensor && key_ == "dtype") {
      dtype_ = std::move(value);
    } else {
      wrong(concat('"', value, '"'));
    }
    return true;
  }

  bool start_object(size_t) override {
    if (place_ == Place::kStart) {
      place_ = Place::kHeader;
    } else if (place_ == Place::kHeader) {
      place_ = name_ == "__metadata__" ? Place::kMetadata : Place::kTensor;
      dtype_.reset(), shape_.reset(), offsets_.reset();
    } else {
      wrong("an object");
    }
    return true;
  }

  bool key(std::string& key) override {
    if (place_ == Place::kHeader) {
      name_ = std::move(key);
      const bool again = name_ == "__metadata__" ? std::exchange(has_metadata_, true)
                                                 : header_.tensors.contains(name_);
      LACE_CHECK(!again, "[safetensors] header of ", file_, " must name each tensor once, got ",
                 printable(name_), " twice");
      return true;
    }
    key_ = std::move(key);
    bool again = false;
    if (place_ == Place::kMetadata) {
      again = header_.metadata.contains(key_);
    } else if (key_ == "dtype") {
      again = dtype_.has_value();
    } else if (key_ == "shape") {
      again = shape_.has_value();
    } else if (key_ == "data_offsets") {
      again = offsets_.has_value();
    } else {
      wrong(key_);
    }
    LACE_CHECK(!again, where(), " must have each key once, got ", printable(key_), " twice");
    return true;
  }

  bool start_array(size_t) override {
    if (place_ != Place::kTensor || key_ == "dtype") wrong("a list");
    place_ = key_ == "shape" ? Place::kShape : Place::kOffsets;
    (key_ == "shape" ? shape_ : offsets_).emplace();
    return true;
  }

  bool end_array() override {
    const bool two = place_ == Place::kShape || offsets_->size() == 2;
    place_ = Place::kTensor;
    if (!two) wrong(list_text(*offsets_));
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTensor) {
      header_.tensors.emplace(name_, tensor());
    }
    place_ = place_ == Place::kHeader ? Place::kEnd : Place::kHeader;
    return true;
  }

  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override {
    throw Error(concat("[safetensors] header of ", file_, " must be JSON"));
  }

 private:
  enum class Place { kStart, kHeader, kMetadata, kTensor, kShape, kOffsets, kEnd };

  std::string where() const {
    if (place_ == Place::kMetadata) return concat("[safetensors] __metadata__ of ", file_);
    return concat("[safetensors] tensor ", printable(name_), " of ", file_);
  }

  // Throws: `got` may not stand here.
  [[noreturn]] void wrong(const std::string& got) const {
    const std::string shown = printable(got, 100);
    switch (place_) {
      case Place::kStart:
      case Place::kEnd:
        throw Error(concat("[safetensors] header of ", file_, " must be a JSON object"));
      case Place::kHeader:
        throw Error(concat(where(), " must be an object, got ", shown));
      case Place::kMetadata:
        throw Error(
            concat(where(), " must hold strings, got ", shown, " for ", printable(key_, 100)));
      case Place::kShape:
      case Place::kOffsets:
        throw Error(concat(where(), " ", key_, " must be non-negative integers, got ", shown));
      case Place::kTensor:
        break;
    }
    throw Error(concat(where(), " must have dtype, shape and two data_offsets, got ", shown));
  }

  // value: -1 if it is not in [0, 2^62).
  bool number(int64_t value, const std::string& text) {
    const bool listed = place_ == Place::kShape || place_ == Place::kOffsets;
    if (!listed || value < 0) wrong(text);
    std::vector<int64_t>& list = place_ == Place::kShape ? *shape_ : *offsets_;
    const size_t most = place_ == Place::kShape ? kMaxSizes : 2;
    LACE_CHECK(list.size() < most, where(), " must have at most ", most, " numbers in ", key_);
    list.push_back(value);
    return true;
  }

  // The tensor that has been read.
  Tensor tensor() const {
    if (!dtype_ || !shape_ || !offsets_) wrong("less");
    int64_t elements = 1;
    for (const int64_t size : *shape_) {
      LACE_CHECK(size == 0 || elements <= kMaxElements / size, where(),
                 " shape must stay below 2^55 elements, got ", list_text(*shape_));
      elements *= size;
    }
    const int64_t begin = (*offsets_)[0], end = (*offsets_)[1];
    LACE_CHECK(begin <= end && end <= data_bytes_, where(), " must lie inside the ", data_bytes_,
               " bytes of data, got ", list_text(*offsets_));
    const int64_t element = element_bytes(*dtype_);
    LACE_CHECK(element == 0 || end - begin == elements * element, where(), " must have ",
               elements * element, " bytes (", *dtype_, " ", list_text(*shape_), "), got ",
               end - begin);
    return {*dtype_, *shape_, data_begin_ + begin, end - begin};
  }

  const int64_t data_begin_, data_bytes_;
  const std::string& file_;
  SafetensorsHeader header_;
  Place place_ = Place::kStart;
  std::string name_, key_;  // of the header's entry; of what is in it
  bool has_metadata_ = false;
  std::optional<std::string> dtype_;
  std::optional<std::vector<int64_t>> shape_, offsets_;
};

// The tensors' bytes follow each other from the first byte of the data to the last.
void check_cover(const SafetensorsHeader& header, int64_t data_begin, int64_t data_bytes,
                 const std::string& file) {
  std::vector<std::pair<std::string_view, const Tensor*>> tensors;
  for (const auto& [name, tensor] : header.tensors) tensors.emplace_back(name, &tensor);
  std::ranges::sort(tensors, {}, [](const auto& entry) {
    return std::pair(entry.second->offset, entry.second->bytes);
  });
  int64_t end = data_begin;
  std::string_view before;
  for (const auto& [name, tensor] : tensors) {
    LACE_CHECK(tensor->offset >= end, "[safetensors] tensors of ", file, " must not overlap, got ",
               printable(name), " at byte ", tensor->offset - data_begin,
               " of the data, before the end of ", printable(before));
    LACE_CHECK(tensor->offset == end, "[safetensors] tensors of ", file,
               " must leave no hole, got ", tensor->offset - end, " bytes before ",
               printable(name));
    end += tensor->bytes;
    before = name;
  }
  LACE_CHECK(end == data_begin + data_bytes, "[safetensors] ", file,
             " must end with its last tensor, got ", data_begin + data_bytes - end, " more bytes");
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view text, int64_t data_begin,
                                           int64_t data_bytes, const std::string& file) {
  const std::string shown = printable(file);
  HeaderReader reader(data_begin, data_bytes, shown);
  Json::sax_parse(text, &reader);
  SafetensorsHeader header = reader.take();
  check_cover(header, data_begin, data_bytes, shown);
  return header;
}

}  // namespace lace
