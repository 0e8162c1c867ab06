#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>

#include "lace/audio.h"
#include "lace/data.h"

namespace lace {
namespace {

constexpr double kMu = 255;

double decode(int code) {
  const double y = 2.0 * code / kMu - 1;
  return std::copysign((std::pow(1 + kMu, std::abs(y)) - 1) / kMu, y);
}

void append(std::vector<uint8_t>& bytes, uint64_t value, int count) {
  for (int i = 0; i < count; ++i) bytes.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

}  // namespace

uint8_t encode_mu_law(float x) {
  if (std::isnan(x)) return 128;
  const double magnitude = std::min(1.0, std::abs(static_cast<double>(x)));
  const double y = std::copysign(std::log1p(kMu * magnitude) / std::log1p(kMu), x);
  return static_cast<uint8_t>((y + 1) / 2 * kMu + 0.5);
}

float decode_mu_law(uint8_t code) {
  static const auto table = [] {
    std::array<float, 256> values;
    for (int i = 0; i < 256; ++i) values[static_cast<size_t>(i)] = static_cast<float>(decode(i));
    return values;
  }();
  return table[code];
}

std::vector<uint8_t> wav_of_mu_law(std::span<const uint8_t> codes, int64_t sample_rate) {
  LACE_CHECK(sample_rate >= 1 && sample_rate < int64_t{1} << 31,
             "[audio] a sample rate is in [1, 2^31), got ", sample_rate);
  constexpr size_t kHeader = 44;
  LACE_CHECK(codes.size() <= (size_t{1} << 31) - kHeader,
             "[audio] a WAV file holds less than 4 GiB, ", "got ", codes.size(),
             " samples of 2 bytes");
  std::vector<uint8_t> wav;
  wav.reserve(kHeader + 2 * codes.size());
  const auto text = [&](const char* four) { wav.insert(wav.end(), four, four + 4); };
  const auto rate = static_cast<uint64_t>(sample_rate);
  text("RIFF");
  append(wav, kHeader - 8 + 2 * codes.size(), 4);
  text("WAVE");
  text("fmt ");
  append(wav, 16, 4);
  append(wav, 1, 2);  // PCM
  append(wav, 1, 2);  // channels
  append(wav, rate, 4);
  append(wav, 2 * rate, 4);  // bytes a second
  append(wav, 2, 2);         // bytes a frame
  append(wav, 16, 2);        // bits a sample
  text("data");
  append(wav, 2 * codes.size(), 4);
  for (const uint8_t code : codes) {
    const auto sample = static_cast<int64_t>(std::lround(32767 * decode_mu_law(code)));
    append(wav, static_cast<uint64_t>(sample), 2);
  }
  return wav;
}

void write_wav(const std::string& path, std::span<const uint8_t> codes, int64_t sample_rate) {
  const std::vector<uint8_t> wav = wav_of_mu_law(codes, sample_rate);
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(wav.data()), static_cast<std::streamsize>(wav.size()));
  file.close();
  LACE_CHECK(file, "[audio] cannot write ", path_text(path), ": ", std::strerror(errno));
}

}  // namespace lace
