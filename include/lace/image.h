#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lace/data.h"

namespace lace {

// Pixels row by row, the channels of a pixel side by side: uint8 [height, width, channels], of
// 1 (grey), 3 (red, green, blue) or 4 (and opacity) channels.
struct Image {
  int64_t height = 0, width = 0, channels = 0;
  std::vector<uint8_t> pixels;
};

// Decodes a PNG or JPEG file. Palettes become colours, 16 bits a channel 8, grey and colour stay
// what they are, and so does opacity; how a camera was held (EXIF) and colour profiles are not
// looked at.
// Throws lace::Error `[images] …` with `name`, the file's, if it is neither, damaged or cut off
// anywhere, if it is a JPEG of CMYK, has more than 2^26 pixels or a side of more than 65,535.
Image decode_image(std::span<const uint8_t> file, const std::string& name);

// The image with this many channels, 1, 3 or 4: grey is repeated, opacity is added as 255 or left
// out, colour becomes grey as (299 red + 587 green + 114 blue) / 1000, rounded.
// Throws lace::Error with `name` if opacity is to be left out where a pixel is not opaque.
Image with_channels(Image image, int64_t channels, const std::string& name);

// The image at another size. A pixel is the mean over the area that it covers, exactly, halves
// rounded up. kCrop first cuts the middle out that has the new shape, to whole pixels; kNone throws
// lace::Error with `name` unless the size is the same.
Image resized(Image image, int64_t height, int64_t width, ImageResize how, const std::string& name);

// Images of one size, [count, height, width, channels], side by side with a pixel between them:
// `columns` in a row (0: about as many as there are rows).
Image image_grid(std::span<const uint8_t> images, int64_t height, int64_t width, int64_t channels,
                 int64_t columns = 0);

// The image as a PNG file.
std::string encode_png(const Image& image);

}  // namespace lace
