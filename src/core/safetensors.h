#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/regular_file.h"

namespace lace {

// The header of a safetensors file (https://github.com/huggingface/safetensors, "Format"): 8 bytes
// of header length, little endian; a JSON object; then the tensors' bytes.
struct SafetensorsHeader {
  struct Tensor {
    std::string dtype;           // "F32", "BF16", "BOOL", …
    std::vector<int64_t> shape;  // row-major
    int64_t offset = 0;          // of its first byte in the file
    int64_t bytes = 0;
  };
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;  // __metadata__
};

// The JSON text of a header whose data are `data_bytes` bytes from byte `data_begin` of `file` on.
// As strict as the format and its first reader: nothing but `__metadata__`, an object of strings,
// and tensors of dtype, shape (at most 64 sizes) and data_offsets; no name twice; the tensors'
// bytes follow each other without overlap or hole from the first byte of the data to the last; and,
// for the dtypes of the format, they fit the shape.
// Throws lace::Error `[safetensors] …` naming `file` otherwise. Takes no more stack for a text that
// nests deeply.
SafetensorsHeader parse_safetensors_header(std::string_view text, int64_t data_begin,
                                           int64_t data_bytes, const std::string& file);

// A safetensors file that is open for reading.
class SafetensorsFile {
 public:
  // Throws lace::Error as RegularFile and parse_safetensors_header.
  explicit SafetensorsFile(const std::string& path);

  const SafetensorsHeader& header() const { return header_; }
  const FileIdentity& identity() const { return file_.identity(); }
  // The bytes of one tensor of header(). Throws lace::Error if they cannot be read.
  std::vector<uint8_t> read(const SafetensorsHeader::Tensor& tensor) const;

 private:
  RegularFile file_;
  SafetensorsHeader header_;
};

// Of a file that is opened for this alone.
SafetensorsHeader read_safetensors_header(const std::string& file);

}  // namespace lace
