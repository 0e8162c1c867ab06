#pragma once

#include <cstdint>
#include <span>

#include "lace/data.h"

namespace lace {

// −Σ p log₂ p over the shares p of the byte values: bits a byte of the best model that knows no
// context. 0 of an empty stream.
double order_0_entropy(const ByteStream& stream);

// Bytes that zlib, at level 9 in gzip's format (GNU gzip -9 differs by about a thousandth), and
// `xz -9` make of these.
int64_t gzip_bytes(std::span<const uint8_t> bytes);
int64_t xz_bytes(std::span<const uint8_t> bytes);

}  // namespace lace
