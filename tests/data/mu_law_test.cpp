#include <algorithm>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "lace/audio.h"

#include "data/temp_folder.h"

namespace lace {
namespace {

// The formula of the µ-law, written apart from the code: the amplitude whose companded value is y.
long double expand(long double y) {
  const long double magnitude = (expl(fabsl(y) * logl(256.0L)) - 1) / 255;
  return y < 0 ? -magnitude : magnitude;
}

TEST(MuLaw, EveryCodeSurvives) {
  for (int code = 0; code < 256; ++code) {
    EXPECT_EQ(encode_mu_law(decode_mu_law(static_cast<uint8_t>(code))), code);
  }
}

TEST(MuLaw, DecodesByTheFormula) {
  for (int code = 0; code < 256; ++code) {
    const long double exact = expand(2.0L * code / 255 - 1);
    EXPECT_NEAR(decode_mu_law(static_cast<uint8_t>(code)), static_cast<double>(exact),
                std::abs(static_cast<double>(exact)) * 1e-7)
        << code;
  }
  EXPECT_EQ(decode_mu_law(0), -1.f);
  EXPECT_EQ(decode_mu_law(255), 1.f);
}

TEST(MuLaw, EachCodeHoldsTheAmplitudesBetweenItsBounds) {
  // Between codes k − 1 and k lies y = 2 (k − ½) / 255 − 1.
  for (int k = 1; k < 256; ++k) {
    const auto bound = static_cast<double>(expand(2 * (k - 0.5L) / 255 - 1));
    const double step = std::abs(bound) * 1e-6 + 1e-12;
    EXPECT_EQ(encode_mu_law(static_cast<float>(bound - step)), k == 128 ? 127 : k - 1) << k;
    EXPECT_EQ(encode_mu_law(static_cast<float>(bound + step)), k) << k;
  }
}

TEST(MuLaw, SilenceEdgesAndWhatIsBeyond) {
  EXPECT_EQ(encode_mu_law(0.f), 128);
  EXPECT_EQ(encode_mu_law(-0.f), 128);
  EXPECT_EQ(encode_mu_law(std::numeric_limits<float>::quiet_NaN()), 128);
  for (const float x : {1.f, 1.5f, 1e30f, std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(encode_mu_law(x), 255);
    EXPECT_EQ(encode_mu_law(-x), 0);
  }
}

TEST(MuLaw, ErrorIsAtMostHalfAStep) {
  // A step near x is (2 / 255) dx/dy = (2 / 255) (1 + 255 |x|) ln 256 / 255; the far side of it,
  // half a step of y away, is 256^(1/255) times as wide.
  double worst = 0;
  for (int i = -20'000; i <= 20'000; ++i) {
    const double x = i / 20'000.0;
    const double error = std::abs(decode_mu_law(encode_mu_law(static_cast<float>(x))) - x);
    const double half_step = (1 + 255 * std::abs(x)) * std::log(256.0) / 255 / 255;
    worst = std::max(worst, error / half_step);
  }
  EXPECT_LE(worst, std::pow(256.0, 0.5 / 255) + 1e-3);
  EXPECT_GE(worst, 0.98);  // it is reached
}

class WavTest : public TempFolderTest {};

TEST_F(WavTest, IsTheFormatToTheByte) {
  const std::vector<uint8_t> codes = {0, 128, 255};
  const std::vector<uint8_t> wav = wav_of_mu_law(codes, 12000);
  const std::string expected(
      "RIFF\x2a\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\xe0\x2e\0\0\xc0\x5d\0\0\x02\0\x10\0"
      "data\x06\0\0\0\x01\x80\x03\0\xff\x7f",
      50);
  EXPECT_EQ(std::string(wav.begin(), wav.end()), expected);
  write_wav(path("x.wav"), codes, 12000);
  std::ifstream file(path("x.wav"), std::ios::binary);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), expected);
}

TEST_F(WavTest, NamesWhatIsWrong) {
  EXPECT_THROW(wav_of_mu_law({}, 0), Error);
  EXPECT_THROW(wav_of_mu_law({}, int64_t{1} << 31), Error);
  try {
    write_wav(path("absent/x.wav"), {}, 12000);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("absent/x.wav: No such file"), std::string::npos);
  }
}

}  // namespace
}  // namespace lace
