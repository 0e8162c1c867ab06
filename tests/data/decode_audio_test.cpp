#include "data/decode_audio.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <numeric>

#include "data/audio_files.h"
#include "data/temp_folder.h"

// For builds with sanitizers: libsndfile 1.2.0 does not free what libvorbis allocates for a file
// that breaks off in its headers.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() { return "leak:libvorbis\n"; }

namespace lace {
namespace {

class DecodeAudioTest : public TempFolderTest {
 protected:
  // The bytes of a file that libsndfile encodes.
  std::string encode(const Format& format, int rate, int channels, int64_t frames,
                     const Signal& signal) const {
    const std::string file = path(std::string("x.") + format.name);
    write_audio(file, format, rate, channels, frames, signal);
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
};

// The level of a sine of that frequency in the codes, and what is left beside it, by least squares
// over the middle of them.
std::pair<double, double> fit_sine(const std::vector<uint8_t>& codes, double hertz, double rate) {
  double ss = 0, sc = 0, cc = 0, xs = 0, xc = 0, xx = 0;
  const size_t margin = codes.size() / 4;
  for (size_t i = margin; i < codes.size() - margin; ++i) {
    const double angle = 2 * std::numbers::pi * hertz * static_cast<double>(i) / rate;
    const double s = std::sin(angle), c = std::cos(angle), x = decode_mu_law(codes[i]);
    ss += s * s, sc += s * c, cc += c * c, xs += x * s, xc += x * c, xx += x * x;
  }
  const double det = ss * cc - sc * sc;
  const double a = (xs * cc - xc * sc) / det, b = (xc * ss - xs * sc) / det;
  const double count = static_cast<double>(codes.size() - 2 * margin);
  return {std::hypot(a, b), std::sqrt(std::max(0.0, xx - a * xs - b * xc) / count)};
}

TEST_F(DecodeAudioTest, SamplesOfTheSameRateAreExact) {
  // All 16-bit amplitudes, in a mono file and in both channels of a stereo file.
  const Signal ramp = [](int64_t frame, int) { return static_cast<double>(frame - 32768) / 32768; };
  std::vector<uint8_t> expected;
  for (int64_t i = 0; i < 65536; ++i) {
    expected.push_back(encode_mu_law(static_cast<float>(ramp(i, 0))));
  }
  for (const Format& format : {kWavFloat, kWav16, kRf64, kRifx, kFlac}) {
    for (const int channels : {1, 2}) {
      SCOPED_TRACE(format.name);
      const auto codes = decoded(encode(format, 12000, channels, 65536, ramp), 12000);
      if (format.format == kWavFloat.format) {
        EXPECT_EQ(codes, expected);
      } else {  // libsndfile's float to 16 bits may round to the value beside
        ASSERT_EQ(codes.size(), expected.size());
        for (size_t i = 0; i < codes.size(); ++i)
          ASSERT_LE(std::abs(codes[i] - expected[i]), 1) << i;
      }
    }
  }
}

TEST_F(DecodeAudioTest, ChannelsAreMixedToTheirMean) {
  const Signal three = [](int64_t frame, int channel) {
    return (channel == 0 ? 0.75 : channel == 1 ? -0.25 : 0.1) * (frame % 2 == 0 ? 1 : -1);
  };
  const auto codes = decoded(encode(kWavFloat, 12000, 3, 1000, three), 12000);
  ASSERT_EQ(codes.size(), 1000u);
  EXPECT_EQ(codes[0], encode_mu_law(0.2f));
  EXPECT_EQ(codes[1], encode_mu_law(-0.2f));
  // Channels that cancel are silence.
  const Signal opposite = [](int64_t frame, int channel) {
    return (channel == 0 ? 1 : -1) * static_cast<double>(frame % 100) / 100;
  };
  for (const uint8_t code : decoded(encode(kWavFloat, 12000, 2, 1000, opposite), 12000)) {
    ASSERT_EQ(code, 128);
  }
}

TEST_F(DecodeAudioTest, ASineKeepsItsFrequencyAndLevel) {
  for (const auto& [rate, hertz] : {std::pair(44100, 1000.0),
                                    {48000, 440.0},
                                    {8000, 3000.0},
                                    {22050, 4000.0},
                                    {96000, 100.0},
                                    {12000, 2500.0}}) {
    SCOPED_TRACE(rate);
    const int64_t frames = rate / 2;
    const auto codes = decoded(encode(kWavFloat, rate, 1, frames, sine(hertz, rate)), 12000);
    EXPECT_NEAR(static_cast<double>(codes.size()), 6000, 1);
    const auto [level, rest] = fit_sine(codes, hertz, 12000);
    EXPECT_NEAR(level, 0.5, 0.0055);  // half of a step of µ-law at this level
    EXPECT_LT(rest, 0.0055);
  }
}

TEST_F(DecodeAudioTest, WhatTheLowerRateCannotHoldIsFiltered) {
  const auto codes = decoded(encode(kWavFloat, 44100, 1, 22050, sine(9000, 44100)), 12000);
  const auto [first, last] = std::minmax_element(codes.begin() + 600, codes.end() - 600);
  EXPECT_GE(*first, 127);
  EXPECT_LE(*last, 129);
}

TEST_F(DecodeAudioTest, ChunksLeaveNoTrace) {
  // Longer than several chunks of reading and of resampling, in many channels too.
  for (const auto& [rate, channels] : {std::pair(44100, 1), {4000, 1}, {48000, 7}}) {
    SCOPED_TRACE(rate);
    const int64_t frames = 300'000;
    const auto codes = decoded(encode(kWav16, rate, channels, frames, sine(500, rate)), 12000);
    EXPECT_NEAR(static_cast<double>(codes.size()), 12000.0 * frames / rate, 1);
    EXPECT_LT(fit_sine(codes, 500, 12000).second, 0.006);
  }
}

TEST_F(DecodeAudioTest, EveryFormatGivesTheSameTones) {
  for (const Format& format : kFormats) {
    SCOPED_TRACE(format.name);
    const auto codes = decoded(encode(format, 48000, 2, 48000, sine(1000, 48000)), 12000);
    EXPECT_NEAR(static_cast<double>(codes.size()), 12000, 400);  // MP3 may keep its padding
    const auto [level, rest] = fit_sine(codes, 1000, 12000);
    EXPECT_NEAR(level, 0.5, 0.02);
    EXPECT_LT(rest, 0.02);
  }
}

TEST_F(DecodeAudioTest, SamplesBeyondOneAreCutAndOthersMustBeNumbers) {
  const Signal loud = [](int64_t frame, int) { return frame % 2 == 0 ? 3.0 : -3.0; };
  const auto codes = decoded(encode(kWavFloat, 12000, 1, 10, loud), 12000);
  EXPECT_EQ(codes, (std::vector<uint8_t>{255, 0, 255, 0, 255, 0, 255, 0, 255, 0}));
  for (const double value :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    const Signal wrong = [=](int64_t frame, int channel) {
      return frame == 70'001 && channel == 1 ? value : 0;
    };
    EXPECT_EQ(decode_error(encode(kWavFloat, 44100, 2, 80'000, wrong)),
              std::string("[audio] samples of file are finite, got ") +
                  (std::isnan(value) ? "NaN" : "infinity") + " in frame 70001");
  }
}

TEST_F(DecodeAudioTest, WhatIsNoAudioIsSaid) {
  const std::string none = "[audio] file is no WAV, FLAC, Ogg or MP3 file";
  EXPECT_EQ(decode_error(""), none);
  EXPECT_EQ(decode_error("R"), none);
  EXPECT_EQ(decode_error("RIFF1234AVI LIST"), none);
  EXPECT_EQ(decode_error("any text, that is"), none);
  EXPECT_EQ(decode_error(std::string("\xff\xfe"
                                     "H\0e\0l\0l\0",
                                     10)),
            none);  // UTF-16
  EXPECT_EQ(decode_error("\xff\xd8\xff\xe0 a JPEG file"), none);
  for (const char* text : {"fLaC", "OggS", "ID3", "RIFF1234WAVE", "\xff\xfb\x90"}) {
    const std::string error = decode_error(text);
    EXPECT_TRUE(error.starts_with("[audio] file is ")) << text << ": " << error;
    EXPECT_NE(error, none) << text;
  }
}

TEST_F(DecodeAudioTest, NoSamplesAndOddRatesAreSaid) {
  EXPECT_EQ(decode_error(encode(kWav16, 44100, 1, 0, sine(1, 1))), "[audio] file holds no samples");
  EXPECT_EQ(
      decode_error(encode(kWav16, 8'000'000, 1, 10, sine(1, 100))),
      "[audio] file has samples to be brought to 12000 Hz, of a rate at most 256 times as high "
      "or low, got 8000000 Hz");
  EXPECT_EQ(
      decode_error(encode(kWav16, 46, 1, 10, sine(1, 100))),
      "[audio] file has samples to be brought to 12000 Hz, of a rate at most 256 times as high "
      "or low, got 46 Hz");
  std::string many = encode(kWav16, 44100, 1, 10, sine(1, 100));
  many[22] = many[23] = '\xff';  // 65,535 channels
  EXPECT_NE(decode_error(many), "");
}

TEST_F(DecodeAudioTest, WhatTheSourceThrowsPassesThrough) {
  class Gone : public ByteSource {
   public:
    explicit Gone(std::string bytes) : bytes_(std::move(bytes)) {}
    void read(int64_t offset, std::span<uint8_t> out) const override {
      LACE_CHECK(offset + static_cast<int64_t>(out.size()) < 50'000, "gone");
      std::memcpy(out.data(), bytes_.data() + offset, out.size());
    }

   private:
    std::string bytes_;
  };
  for (const Format& format : {kWav16, kFlac}) {
    const Signal noise = [](int64_t frame, int) {
      return static_cast<double>(frame * 7919 % 1000) / 1000;
    };
    const std::string bytes = encode(format, 44100, 1, 100'000, noise);
    ASSERT_GT(bytes.size(), 60'000u);
    try {
      decode_audio(Gone(bytes), static_cast<int64_t>(bytes.size()), "x", 12000, [](auto) {});
      FAIL() << format.name;
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(), "gone");
    }
  }
}

// At every length: an error that names the file, or what came before the cut.
TEST_F(DecodeAudioTest, TruncatedFilesOfEveryFormat) {
  for (const Format& format : kFormats) {
    SCOPED_TRACE(format.name);
    const std::string whole = encode(format, 48000, 2, 9600, sine(1000, 48000));
    const auto codes = decoded(whole, 12000);
    size_t shorter = 0, cuts = 0;
    for (size_t length = 0; length < whole.size(); length += 1 + length / 40) {
      ++cuts;
      std::vector<uint8_t> part;
      try {
        part = decoded(whole.substr(0, length), 12000);
      } catch (const Error& error) {
        ASSERT_TRUE(std::string(error.what()).starts_with("[audio] file ")) << error.what();
        continue;
      }
      ++shorter;
      ASSERT_LT(part.size(), codes.size()) << length;
      ASSERT_GT(part.size(), 0u);
    }
    if (format.format != kMp3.format) {
      EXPECT_EQ(shorter, 0u) << "of " << cuts;
    }
  }
}

TEST_F(DecodeAudioTest, DamagedFilesOfEveryFormat) {
  for (const Format& format : kFormats) {
    SCOPED_TRACE(format.name);
    const std::string whole = encode(format, 48000, 1, 4800, sine(1000, 48000));
    for (size_t at = 0; at < whole.size(); at += 1 + at / 8) {
      for (const char byte : {'\0', '\xff', '\x7f'}) {
        std::string damaged = whole;
        damaged[at] = byte;
        const std::string error = decode_error(damaged);
        ASSERT_TRUE(error.empty() || error.starts_with("[audio] ")) << error;
      }
    }
  }
}

// The number of frames of an MP3 file without an Info header is a guess, which tags at its end
// spoil.
TEST_F(DecodeAudioTest, Mp3FilesWithTagsAndWithoutAHeaderOfTheirLength) {
  const std::string whole = encode(kMp3, 44100, 1, 44100, sine(1000, 44100));
  const size_t first = whole.find("\xff\xfb"), second = whole.find("\xff\xfb", first + 4);
  ASSERT_LT(second, whole.size());
  const std::string header = whole.substr(first, second - first);
  ASSERT_TRUE(header.find("Info") < 60 || header.find("Xing") < 60) << whole.substr(0, 60);
  const std::string frames = whole.substr(second);
  const std::string id3v2 = std::string("ID3\4\0\0\0\0\2\0", 10) + std::string(256, '\0');
  const std::string id3v1 = "TAG" + std::string(125, 'x');
  for (const std::string& bytes : {frames, id3v2 + frames, frames + id3v1 + id3v1 + id3v1,
                                   id3v2 + whole + id3v1, id3v2 + id3v2 + frames + id3v1}) {
    EXPECT_NEAR(static_cast<double>(decoded(bytes, 12000).size()), 12000, 1000);
  }
  for (const std::string& bytes : {frames, id3v2 + frames}) {
    const std::string error = decode_error(bytes.substr(0, bytes.size() - 10));
    EXPECT_EQ(error, "[audio] file is cut off: by its own account it goes on to byte " +
                         std::to_string(bytes.size()) + ", it has " +
                         std::to_string(bytes.size() - 10));
  }
}

// An Ogg file whose first page of audio ends at this place, and the others as far from it as
// before; files that were cut out of others may begin before 0.
std::string ogg_from(std::string ogg, int64_t place_of_first) {
  const auto byte = [&](size_t at) { return static_cast<uint8_t>(ogg[at]); };
  const auto put = [&](size_t at, uint64_t value, size_t count) {
    for (size_t i = 0; i < count; ++i) ogg[at + i] = static_cast<char>(value >> 8 * i);
  };
  uint64_t first = 0;
  for (size_t page = 0; page + 27 <= ogg.size();) {
    size_t size = 27 + byte(page + 26);
    for (size_t i = 0; i < byte(page + 26); ++i) size += byte(page + 27 + i);
    uint64_t place = 0;
    for (size_t i = 0; i < 8; ++i) place |= uint64_t{byte(page + 6 + i)} << 8 * i;
    if (first == 0) first = place;  // headers are at 0
    if (place != 0) put(page + 6, place - first + static_cast<uint64_t>(place_of_first), 8);
    put(page + 22, 0, 4);
    uint32_t crc = 0;
    for (size_t i = page; i < page + size; ++i) {
      crc ^= uint32_t{byte(i)} << 24;
      for (int bit = 0; bit < 8; ++bit) crc = crc << 1 ^ (crc >> 31 != 0 ? 0x04c11db7 : 0);
    }
    put(page + 22, crc, 4);
    page += size;
  }
  return ogg;
}

TEST_F(DecodeAudioTest, OggFilesMayBeginBeforeZero) {
  const Signal noise = [](int64_t frame, int) {
    return static_cast<double>(frame * frame % 7919 - 3960) / 8000;
  };
  const std::string ogg = encode(kVorbis, 48000, 1, 240'000, noise);
  EXPECT_NEAR(static_cast<double>(decoded(ogg_from(ogg, -104), 12000).size()), 60'000, 3000);
}

// A WAV file that was written into a pipe does not know its length.
TEST_F(DecodeAudioTest, SizesThatAreNotKnownAreTheRestOfTheFile) {
  std::string wav = encode(kWav16, 12000, 1, 1000, sine(100, 12000));
  const auto codes = decoded(wav, 12000);
  const size_t data = wav.find("data");
  for (const char* size : {"\xff\xff\xff\xff", "\xff\xff\xff\x7f"}) {
    wav.replace(4, 4, size, 4);
    wav.replace(data + 4, 4, size, 4);
    EXPECT_EQ(decoded(wav, 12000), codes);
  }
}

}  // namespace
}  // namespace lace
