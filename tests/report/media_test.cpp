#include "report/media.h"

#include <cmath>

#include <zlib.h>

#include <gtest/gtest.h>

#include "lace/error.h"

#include "report/html.h"

namespace lace::report {
namespace {

uint32_t high_first(std::string_view bytes) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

uint32_t low_first(std::string_view bytes, size_t count) {
  uint32_t value = 0;
  for (size_t i = count; i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

TEST(Html, EscapesAllThatMeansSomething) {
  EXPECT_EQ(escaped("a<b> & \"c\" 'd'\n\t"), "a&lt;b&gt; &amp; &quot;c&quot; &#39;d&#39;\n\t");
  EXPECT_EQ(escaped(std::string_view("\0\x1b\x7f\xff€", 7)), "\\x00\\x1b\\x7f\\xff€");
  EXPECT_EQ(escaped("\xe2\x82"), "\\xe2\\x82");
  EXPECT_EQ(escaped("\xc2\x9b"), "\\xc2\\x9b");  // a control character in UTF-8
}

TEST(Html, Base64) {
  EXPECT_EQ(base64(""), "");
  EXPECT_EQ(base64("f"), "Zg==");
  EXPECT_EQ(base64("fo"), "Zm8=");
  EXPECT_EQ(base64("foo"), "Zm9v");
  EXPECT_EQ(base64("foobar"), "Zm9vYmFy");
  EXPECT_EQ(base64("\xff\xfe\xfd"), "//79");
}

TEST(Html, ShortNumbersAreJson) {
  EXPECT_EQ(short_number(0.1), "0.1");
  EXPECT_EQ(short_number(123456789, 9), "123456789");
  EXPECT_EQ(short_number(NAN), "");
  EXPECT_EQ(short_number(1e-7, 3), "1e-07");
}

TEST(Png, ChunksHoldThePixels) {
  const std::string pixels = "\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c";
  const std::string file = png(2, 2, 3, pixels);
  ASSERT_EQ(file.substr(0, 8), "\x89PNG\r\n\x1a\n");
  std::string header, data;
  bool ended = false;
  for (size_t at = 8; at < file.size();) {
    const size_t size = high_first(std::string_view(file).substr(at));
    const std::string type = file.substr(at + 4, 4), body = file.substr(at + 8, size);
    const std::string checked = type + body;
    EXPECT_EQ(high_first(std::string_view(file).substr(at + 8 + size)),
              crc32(0, reinterpret_cast<const Bytef*>(checked.data()),
                    static_cast<uInt>(checked.size())));
    if (type == "IHDR") header = body;
    if (type == "IDAT") data += body;
    ended = type == "IEND";
    at += 12 + size;
  }
  EXPECT_TRUE(ended);
  EXPECT_EQ(header, std::string("\0\0\0\2\0\0\0\2\x08\x02\0\0\0", 13));
  std::string rows(14, '?');
  uLongf size = rows.size();
  ASSERT_EQ(uncompress(reinterpret_cast<Bytef*>(rows.data()), &size,
                       reinterpret_cast<const Bytef*>(data.data()), data.size()),
            Z_OK);
  EXPECT_EQ(rows,
            std::string(1, '\0') + pixels.substr(0, 6) + std::string(1, '\0') + pixels.substr(6));
}

TEST(Png, SizesMustFit) {
  EXPECT_THROW(png(2, 2, 3, "too short"), Error);
  EXPECT_THROW(png(0, 2, 3, ""), Error);
  EXPECT_THROW(png(1, 1, 2, "ab"), Error);
  EXPECT_THROW(png(int64_t{1} << 40, int64_t{1} << 40, 3, ""), Error);
}

TEST(Wav, HeaderAndSamples) {
  const std::string codes("\x00\x7f\x80\xff", 4);
  const std::string file = wav(codes, 12000);
  ASSERT_EQ(file.size(), 44u + 8u);
  EXPECT_EQ(file.substr(0, 4) + file.substr(8, 8), "RIFFWAVEfmt ");
  EXPECT_EQ(low_first(file.substr(4), 4), file.size() - 8);
  EXPECT_EQ(low_first(file.substr(24), 4), 12000u);
  EXPECT_EQ(low_first(file.substr(28), 4), 24000u);
  EXPECT_EQ(low_first(file.substr(40), 4), 8u);
  const auto sample = [&](size_t i) {
    return static_cast<int16_t>(low_first(file.substr(44 + 2 * i), 2));
  };
  EXPECT_EQ(sample(0), -32767);
  EXPECT_EQ(sample(3), 32767);
  EXPECT_EQ(sample(1), -sample(2));  // the two codes beside silence
  EXPECT_LT(std::abs(sample(1)), 10);
}

// µ-law with µ = 255: y = sign(x) ln(1 + 255 |x|) / ln 256.
TEST(Wav, MuLawIsUndone) {
  for (int code = 0; code < 256; ++code) {
    const double x = mu_law_sample(static_cast<uint8_t>(code));
    const double y = std::copysign(std::log1p(255 * std::abs(x)) / std::log(256), x);
    EXPECT_NEAR((y + 1) / 2 * 255, code, 1e-9);
  }
}

}  // namespace
}  // namespace lace::report
