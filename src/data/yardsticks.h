#pragma once

#include <cstdint>
#include <span>

#include "lace/data.h"

namespace lace {

// −Σ p log₂ p over the shares p of the byte values: bits a byte of the best model that knows no
// context. 0 of an empty stream.
double order_0_entropy(const ByteStream& stream);

// Bytes that `gzip -9` and `xz -9` would make of these.
int64_t gzip_bytes(std::span<const uint8_t> bytes);
int64_t xz_bytes(std::span<const uint8_t> bytes);

}  // namespace lace
