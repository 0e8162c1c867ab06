#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "lace/error.h"

#include "core/safetensors.h"

// Any text is the header of a file of at most 255 bytes of data, its first byte's number, whose
// tensors cover them, or throws lace::Error whose text is short.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  const int64_t begin = 8 + static_cast<int64_t>(text.size()), bytes = data[0];
  try {
    int64_t covered = 0;
    for (const auto& [name, tensor] :
         lace::parse_safetensors_header(text, begin, bytes, "x").tensors) {
      covered += tensor.bytes;
      if (tensor.offset < begin || tensor.offset + tensor.bytes > begin + bytes) std::abort();
    }
    if (covered != bytes) std::abort();
  } catch (const lace::Error& error) {
    if (std::string_view(error.what()).size() > 3000) std::abort();
  }
  return 0;
}
