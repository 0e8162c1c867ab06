#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "lace/image.h"

namespace lace {

constexpr int64_t kMaxImageSide = 65535, kMaxImagePixels = int64_t{1} << 26;

// What decode_image says of the size that a file claims.
void check_image_size(int64_t height, int64_t width, const std::string& name);

bool is_png(std::span<const uint8_t> beginning);
bool is_jpeg(std::span<const uint8_t> beginning);
constexpr int64_t kImageMagicBytes = 8;  // of the beginning that both look at

Image decode_png(std::span<const uint8_t> file, const std::string& name);
Image decode_jpeg(std::span<const uint8_t> file, const std::string& name);

}  // namespace lace
