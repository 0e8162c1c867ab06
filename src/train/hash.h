#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace lace::train {

// XXH3 with 64 bits (https://xxhash.com), the same on every machine. To hash several pieces, hand
// each the hash of those before it as its seed.
uint64_t hash64(std::span<const uint8_t> bytes, uint64_t seed = 0);

// 16 digits, as checksums are written.
std::string hex64(uint64_t value);

}  // namespace lace::train
