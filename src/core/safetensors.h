#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

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

// Reads the header of a regular file and checks that every tensor lies inside the file and, for the
// dtypes of the format, that its bytes fit its shape.
// Throws lace::Error `[safetensors] …` naming the file otherwise.
SafetensorsHeader read_safetensors_header(const std::string& file);

// The bytes of one tensor of `file`. Throws lace::Error if they cannot be read.
std::vector<uint8_t> read_safetensors_bytes(const std::string& file,
                                            const SafetensorsHeader::Tensor& tensor);

}  // namespace lace
