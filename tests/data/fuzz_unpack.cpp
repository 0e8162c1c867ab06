// Any bytes unpack, or are an error of lace's own.

#include <algorithm>

#include "lace/error.h"

#include "data/unpack.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const uint8_t> file(data, size);
  const lace::Packing packing = lace::packing_of(file);
  if (packing == lace::Packing::kNone) return 0;
  size_t at = 0, unpacked = 0;
  try {
    lace::unpack(
        packing, "input",
        [&](std::span<uint8_t> out) {
          const size_t count = std::min(out.size(), size - at);
          std::copy_n(data + at, count, out.data());
          at += count;
          return count;
        },
        [&](std::span<const uint8_t> bytes) {
          unpacked += bytes.size();
          if (unpacked > size_t{1} << 26) throw lace::Error("enough");
        });
  } catch (const lace::Error&) {
  }
  return 0;
}
