#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace lace {

// How a file is packed, by its first bytes.
enum class Packing { kNone, kGzip, kXz, kZstd };
constexpr int64_t kPackingBytes = 6;  // of the beginning that packing_of looks at
Packing packing_of(std::span<const uint8_t> beginning);
const char* name(Packing packing);

// Unpacks a gzip, xz or zstd file, which may be several one after the other; checksums are checked.
//   read: fills the front of a buffer with the next bytes of the file and returns how many; 0 at
//     its end.
//   write: takes what they unpack to, at most 1 MiB at a time.
// Throws lace::Error `[unpack] …` with `shown`, the file's name, and the byte at which it is
// damaged or cut off, if it asks for more than 1 GiB of memory, or if what it holds is a tar
// archive.
void unpack(Packing packing, const std::string& shown,
            const std::function<size_t(std::span<uint8_t>)>& read,
            const std::function<void(std::span<const uint8_t>)>& write);

}  // namespace lace
