#include "report/media.h"

#include <array>
#include <cmath>

#include <zlib.h>

#include "lace/error.h"

#include "report/html.h"

namespace lace::report {
namespace {

void append(std::string& text, uint32_t value, int bytes, bool high_first) {
  for (int i = 0; i < bytes; ++i)
    text += static_cast<char>(value >> 8 * (high_first ? bytes - 1 - i : i));
}

void append_chunk(std::string& file, std::string_view type, std::string_view data) {
  append(file, static_cast<uint32_t>(data.size()), 4, true);
  const std::string chunk = concat(type, data);
  file += chunk;
  append(file,
         static_cast<uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(chunk.data()),
                                     static_cast<uInt>(chunk.size()))),
         4, true);
}

std::string deflated(std::string_view bytes) {
  uLongf size = compressBound(bytes.size());
  std::string packed(size, '\0');
  const int result = compress2(reinterpret_cast<Bytef*>(packed.data()), &size,
                               reinterpret_cast<const Bytef*>(bytes.data()), bytes.size(), 6);
  LACE_CHECK(result == Z_OK, "[report] a picture cannot be compressed: zlib says ", result);
  packed.resize(size);
  return packed;
}

}  // namespace

std::string png(int64_t width, int64_t height, int64_t channels, std::string_view pixels) {
  constexpr int64_t kMost = 1 << 14;
  LACE_CHECK(width > 0 && height > 0 && width <= kMost && height <= kMost,
             "[report] a picture's sides must be 1 to ", kMost, ", got ", width, " × ", height);
  LACE_CHECK(channels == 1 || channels == 3, "[report] a picture has 1 or 3 channels, got ",
             channels);
  const auto row = static_cast<size_t>(width * channels), rows = static_cast<size_t>(height);
  LACE_CHECK(pixels.size() == rows * row, "[report] a picture of ", width, " × ", height, " × ",
             channels, " has ", rows * row, " bytes, got ", pixels.size());
  std::string filtered;
  filtered.reserve(rows * (row + 1));
  for (size_t y = 0; y < rows; ++y) {
    filtered += '\0';  // of each row: no filter
    filtered += pixels.substr(y * row, row);
  }
  std::string header;
  append(header, static_cast<uint32_t>(width), 4, true);
  append(header, static_cast<uint32_t>(height), 4, true);
  header += {8, static_cast<char>(channels == 3 ? 2 : 0), 0, 0, 0};
  std::string file("\x89PNG\r\n\x1a\n", 8);
  append_chunk(file, "IHDR", header);
  append_chunk(file, "IDAT", deflated(filtered));
  append_chunk(file, "IEND", "");
  return file;
}

// y = code / 127.5 − 1; x = sign(y) · (256^|y| − 1) / 255
double mu_law_sample(uint8_t code) {
  const double y = code / 127.5 - 1;
  return std::copysign((std::pow(256.0, std::abs(y)) - 1) / 255, y);
}

std::string wav(std::string_view codes, double sample_rate) {
  static const std::array<int16_t, 256> table = [] {
    std::array<int16_t, 256> samples{};
    for (size_t i = 0; i < samples.size(); ++i)
      samples[i] =
          static_cast<int16_t>(std::lround(32767 * mu_law_sample(static_cast<uint8_t>(i))));
    return samples;
  }();
  const auto rate = static_cast<uint32_t>(sample_rate);
  const auto bytes = static_cast<uint32_t>(2 * codes.size());
  std::string file = "RIFF";
  append(file, 36 + bytes, 4, false);
  file += "WAVEfmt ";
  append(file, 16, 4, false);
  append(file, 1, 2, false);  // whole numbers
  append(file, 1, 2, false);  // channels
  append(file, rate, 4, false);
  append(file, 2 * rate, 4, false);  // bytes a second
  append(file, 2, 2, false);         // bytes of a sample
  append(file, 16, 2, false);
  file += "data";
  append(file, bytes, 4, false);
  for (const char code : codes)
    append(file, static_cast<uint16_t>(table[static_cast<uint8_t>(code)]), 2, false);
  return file;
}

std::string data_uri(std::string_view type, std::string_view bytes) {
  return concat("data:", type, ";base64,", base64(bytes));
}

}  // namespace lace::report
