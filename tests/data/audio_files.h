#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <numbers>
#include <string>
#include <vector>

#include <sndfile.h>

#include <gtest/gtest.h>

#include "lace/audio.h"

#include "data/decode_audio.h"

// Audio files for tests, encoded by libsndfile, and what lace decodes them to.
namespace lace {

struct Format {
  const char* name;
  int format;
};
inline constexpr Format kWav16{"wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16};
inline constexpr Format kWavFloat{"float.wav", SF_FORMAT_WAV | SF_FORMAT_FLOAT};
inline constexpr Format kRf64{"rf64.wav", SF_FORMAT_RF64 | SF_FORMAT_PCM_16};
inline constexpr Format kRifx{"rifx.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16 | SF_ENDIAN_BIG};
inline constexpr Format kFlac{"flac", SF_FORMAT_FLAC | SF_FORMAT_PCM_16};
inline constexpr Format kVorbis{"ogg", SF_FORMAT_OGG | SF_FORMAT_VORBIS};
inline constexpr Format kOpus{"opus", SF_FORMAT_OGG | SF_FORMAT_OPUS};
inline constexpr Format kMp3{"mp3", SF_FORMAT_MPEG | SF_FORMAT_MPEG_LAYER_III};
inline constexpr Format kFormats[] = {kWav16, kWavFloat, kRf64, kRifx, kFlac, kVorbis, kOpus, kMp3};

// The samples of frames [0, frames) of each channel.
using Signal = std::function<double(int64_t frame, int channel)>;

inline Signal sine(double hertz, double rate, double level = 0.5) {
  return [=](int64_t frame, int) {
    return level * std::sin(2 * std::numbers::pi * hertz * static_cast<double>(frame) / rate);
  };
}

inline void write_audio(const std::string& path, const Format& format, int rate, int channels,
                        int64_t frames, const Signal& signal) {
  SF_INFO info{};
  info.samplerate = rate;
  info.channels = channels;
  info.format = format.format;
  SNDFILE* file = sf_open(path.c_str(), SFM_WRITE, &info);
  ASSERT_NE(file, nullptr) << format.name << ": " << sf_strerror(nullptr);
  std::vector<float> samples;
  for (int64_t frame = 0; frame < frames; ++frame) {
    for (int c = 0; c < channels; ++c) samples.push_back(static_cast<float>(signal(frame, c)));
  }
  EXPECT_EQ(sf_writef_float(file, samples.data(), frames), frames);
  EXPECT_EQ(sf_close(file), 0);
}

inline std::vector<uint8_t> decoded(const std::string& file_bytes, int64_t rate) {
  const std::vector<uint8_t> bytes(file_bytes.begin(), file_bytes.end());
  class Memory : public ByteSource {
   public:
    explicit Memory(const std::vector<uint8_t>& bytes) : bytes_(bytes) {}
    void read(int64_t offset, std::span<uint8_t> out) const override {
      ASSERT_LE(static_cast<size_t>(offset) + out.size(), bytes_.size());
      if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
    }

   private:
    const std::vector<uint8_t>& bytes_;
  };
  std::vector<uint8_t> codes;
  decode_audio(
      Memory(bytes), static_cast<int64_t>(bytes.size()), "file", rate,
      [&](std::span<const uint8_t> more) { codes.insert(codes.end(), more.begin(), more.end()); });
  return codes;
}

// What decode_audio throws, or "".
inline std::string decode_error(const std::string& file_bytes, int64_t rate = 12000) {
  try {
    decoded(file_bytes, rate);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace lace
