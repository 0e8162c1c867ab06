// One image: what PNG and JPEG files decode to, whole, cut off and damaged; sizes and channels.

#include "lace/image.h"

#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "data/image_files.h"

namespace lace {
namespace {

Image decode(const std::string& file) {
  return decode_image({reinterpret_cast<const uint8_t*>(file.data()), file.size()}, "FILE");
}

std::string decode_error(const std::string& file) {
  try {
    decode(file);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

Image random_image(int64_t height, int64_t width, int64_t channels, uint32_t seed) {
  std::mt19937 random(seed);
  Image image{height, width, channels, {}};
  for (int64_t i = 0; i < height * width * channels; ++i)
    image.pixels.push_back(static_cast<uint8_t>(random()));
  return image;
}

// Colours that change slowly, as JPEG likes them.
Image smooth_image(int64_t height, int64_t width, int64_t channels) {
  Image image{height, width, channels, {}};
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      for (int64_t c = 0; c < channels; ++c)
        image.pixels.push_back(static_cast<uint8_t>(40 + 3 * y + (c + 1) * x));
  return image;
}

TEST(Png, WhatIsEncodedIsDecoded) {
  for (const int64_t channels : {1, 3, 4}) {
    for (const auto& [height, width] : {std::pair{1, 1}, {1, 70}, {33, 5}, {64, 64}}) {
      const Image image = random_image(height, width, channels, 7);
      const Image back = decode(encode_png(image));
      EXPECT_EQ(back.height, height);
      EXPECT_EQ(back.width, width);
      EXPECT_EQ(back.channels, channels);
      EXPECT_EQ(back.pixels, image.pixels);
    }
  }
  EXPECT_THROW(encode_png({2, 2, 2, std::vector<uint8_t>(8)}), Error);
  EXPECT_THROW(encode_png({2, 2, 3, std::vector<uint8_t>(8)}), Error);
  EXPECT_THROW(encode_png({0, 2, 3, {}}), Error);
}

// The samples of a row as PNG packs them, the first in the highest bits.
std::string packed(const std::vector<int>& samples, int bits) {
  std::string row;
  int free = 0;
  for (const int sample : samples) {
    if (bits == 16) {
      row += static_cast<char>(sample >> 8);
      row += static_cast<char>(sample & 255);
      continue;
    }
    if (free == 0) {
      row += '\0';
      free = 8;
    }
    free -= bits;
    row.back() = static_cast<char>(row.back() | sample << free);
  }
  return row;
}

// Every colour type and depth of the format, put together by hand.
TEST(Png, EveryKindIsDecodedAsTheFormatSays) {
  std::mt19937 random(3);
  struct Kind {
    int color, samples;
    std::vector<int> depths;
  };
  for (const Kind& kind : {Kind{0, 1, {1, 2, 4, 8, 16}}, Kind{2, 3, {8, 16}},
                           Kind{3, 1, {1, 2, 4, 8}}, Kind{4, 2, {8, 16}}, Kind{6, 4, {8, 16}}}) {
    for (const int bits : kind.depths) {
      for (const bool transparent : {false, true}) {
        if (transparent && kind.color != 3) continue;
        const int width = 13, height = 5, most = (1 << bits) - 1;
        std::string palette, opacity;
        for (int i = 0; i < 3 << bits; ++i) palette += static_cast<char>(random());
        for (int i = 0; i < 1 << bits; ++i) opacity += static_cast<char>(random());
        std::vector<std::string> rows;
        std::vector<uint8_t> expected;
        for (int y = 0; y < height; ++y) {
          std::vector<int> samples;
          for (int x = 0; x < width; ++x) {
            std::vector<int> pixel;
            for (int s = 0; s < kind.samples; ++s)
              pixel.push_back(static_cast<int>(random() % static_cast<unsigned>(most + 1)));
            samples.insert(samples.end(), pixel.begin(), pixel.end());
            if (kind.color == 3) {
              const auto at = static_cast<size_t>(pixel[0]);
              for (size_t c = 0; c < 3; ++c)
                expected.push_back(static_cast<uint8_t>(palette[3 * at + c]));
              if (transparent) expected.push_back(static_cast<uint8_t>(opacity[at]));
              continue;
            }
            if (kind.color == 4) pixel = {pixel[0], pixel[0], pixel[0], pixel[1]};
            for (const int value : pixel)
              expected.push_back(static_cast<uint8_t>(std::lround(255.0 * value / most)));
          }
          rows.push_back(packed(samples, bits));
        }
        std::string chunks;
        if (kind.color == 3) chunks = png_chunk("PLTE", palette);
        if (transparent) chunks += png_chunk("tRNS", opacity);
        const Image image = decode(png_file(width, height, bits, kind.color, rows, chunks));
        EXPECT_EQ(image.pixels, expected) << kind.color << " " << bits;
        EXPECT_EQ(image.channels * width * height, static_cast<int64_t>(expected.size()));
      }
    }
  }
}

TEST(Png, CutOffAnywhereIsAnError) {
  const std::string file = encode_png(random_image(9, 11, 3, 1));
  for (size_t bytes = 0; bytes < file.size(); ++bytes)
    ASSERT_NE(decode_error(file.substr(0, bytes)), "") << bytes;
  EXPECT_EQ(decode_error(file.substr(0, file.size() - 20)),
            "[images] FILE is no sound PNG file: it is cut off");
}

TEST(Png, DamageIsAnError) {
  const Image image = random_image(9, 11, 3, 1);
  const std::string file = encode_png(image);
  for (size_t at = 0; at < file.size(); ++at) {
    std::string damaged = file;
    damaged[at] = static_cast<char>(damaged[at] ^ 1 << at % 8);
    ASSERT_NE(decode_error(damaged), "") << at;
  }
}

TEST(Png, ClaimsOfHugeSizesAreErrors) {
  for (const auto& [width, height] :
       {std::pair{65535u, 65535u}, {70000u, 1u}, {1u, 1u << 31}, {8193u, 8193u}}) {
    const std::string error = decode_error(png_file(width, height, 8, 2, {std::string(30, 'x')}));
    EXPECT_TRUE(contains(error, "[images] FILE ")) << error;
  }
  EXPECT_TRUE(contains(decode_error(png_file(8193, 8193, 8, 2, {"x"})),
                       "at most 67108864 pixels, got 8193 x 8193"));
}

TEST(Jpeg, IsDecodedNearly) {
  for (const bool progressive : {false, true}) {
    for (const int64_t channels : {1, 3}) {
      const Image image = smooth_image(21, 34, channels);
      const Image back =
          decode(jpeg_file(image, channels == 1 ? JCS_GRAYSCALE : JCS_RGB, progressive));
      ASSERT_EQ(back.height, 21);
      ASSERT_EQ(back.width, 34);
      ASSERT_EQ(back.channels, channels);
      double off = 0;
      for (size_t i = 0; i < image.pixels.size(); ++i)
        off += std::abs(image.pixels[i] - back.pixels[i]);
      EXPECT_LT(off / static_cast<double>(image.pixels.size()), 3.0);
    }
  }
}

TEST(Jpeg, CutOffAnywhereIsAnError) {
  for (const bool progressive : {false, true}) {
    const std::string file = jpeg_file(smooth_image(40, 40, 3), JCS_RGB, progressive);
    for (size_t bytes = 0; bytes < file.size(); ++bytes)
      ASSERT_NE(decode_error(file.substr(0, bytes)), "") << progressive << " " << bytes;
  }
}

TEST(Jpeg, WhatCannotBeReadIsNamed) {
  EXPECT_TRUE(contains(decode_error(jpeg_file(random_image(8, 8, 4, 1), JCS_CMYK)), "CMYK"));
  EXPECT_EQ(decode_error("GIF89a"), "[images] FILE is neither a PNG nor a JPEG file");
  std::string huge = jpeg_file(smooth_image(40, 40, 3), JCS_RGB);
  const size_t frame = huge.find("\xff\xc0");
  ASSERT_NE(frame, std::string::npos);
  huge.replace(frame + 5, 4, "\xff\xdc\xff\xdc");
  EXPECT_TRUE(contains(decode_error(huge), "at most 67108864 pixels")) << decode_error(huge);
}

// A progressive file may ask that all of its coefficients be gone through again and again.
TEST(Jpeg, ScansWithoutEndAreAnError) {
  const std::string file = jpeg_file(smooth_image(40, 40, 1), JCS_GRAYSCALE, true);
  const size_t last = file.rfind("\xff\xda");
  const std::string scan = file.substr(last, file.size() - 2 - last);
  std::string longer = file.substr(0, file.size() - 2);
  for (int i = 0; i < 1000; ++i) longer += scan;
  EXPECT_NE(decode_error(longer + "\xff\xd9"), "");
}

TEST(Channels, AreConverted) {
  const Image grey{1, 2, 1, {7, 200}}, color{1, 2, 3, {255, 0, 0, 10, 20, 30}},
      opaque{1, 1, 4, {1, 2, 3, 255}}, glass{1, 1, 4, {1, 2, 3, 254}};
  using Pixels = std::vector<uint8_t>;
  EXPECT_EQ(with_channels(grey, 3, "X").pixels, (Pixels{7, 7, 7, 200, 200, 200}));
  EXPECT_EQ(with_channels(grey, 4, "X").pixels, (Pixels{7, 7, 7, 255, 200, 200, 200, 255}));
  EXPECT_EQ(with_channels(color, 1, "X").pixels, (Pixels{76, 18}));  // 76.245, 18.15
  EXPECT_EQ(with_channels(color, 4, "X").pixels, (Pixels{255, 0, 0, 255, 10, 20, 30, 255}));
  EXPECT_EQ(with_channels(opaque, 3, "X").pixels, (Pixels{1, 2, 3}));
  EXPECT_EQ(with_channels(glass, 4, "X").pixels, glass.pixels);
  EXPECT_THROW(with_channels(glass, 3, "X"), Error);
  EXPECT_THROW(with_channels(color, 2, "X"), Error);
}

// The mean of a pixel's area by its definition: ∫∫ over the old pixels, in float64.
double mean_over(const Image& image, int64_t c, double top, double bottom, double left,
                 double right) {
  double sum = 0;
  for (int64_t y = 0; y < image.height; ++y) {
    for (int64_t x = 0; x < image.width; ++x) {
      const double down = std::min<double>(bottom, static_cast<double>(y + 1)) -
                          std::max<double>(top, static_cast<double>(y));
      const double across = std::min<double>(right, static_cast<double>(x + 1)) -
                            std::max<double>(left, static_cast<double>(x));
      if (down > 0 && across > 0)
        sum += down * across *
               image.pixels[static_cast<size_t>((y * image.width + x) * image.channels + c)];
    }
  }
  return sum / ((bottom - top) * (right - left));
}

TEST(Resize, IsTheMeanOverTheArea) {
  std::mt19937 random(9);
  for (int round = 0; round < 150; ++round) {
    const auto side = [&] { return static_cast<int64_t>(1 + random() % 24); };
    const int64_t channels = round % 2 == 0 ? 3 : 1;
    const Image image = random_image(side(), side(), channels, random());
    const int64_t height = side(), width = side();
    const Image small = resized(image, height, width, ImageResize::kStretch, "X");
    ASSERT_EQ(small.height, height);
    ASSERT_EQ(small.width, width);
    const double down = static_cast<double>(image.height) / static_cast<double>(height),
                 across = static_cast<double>(image.width) / static_cast<double>(width);
    for (int64_t y = 0; y < height; ++y)
      for (int64_t x = 0; x < width; ++x)
        for (int64_t c = 0; c < channels; ++c) {
          const auto i = static_cast<double>(y), j = static_cast<double>(x);
          const double mean =
              mean_over(image, c, i * down, (i + 1) * down, j * across, (j + 1) * across);
          const int got = small.pixels[static_cast<size_t>((y * width + x) * channels + c)];
          ASSERT_LE(std::abs(got - mean), 0.5 + 1e-9)
              << image.height << "x" << image.width << " to " << height << "x" << width;
        }
  }
}

TEST(Resize, HalvesAreRoundedUpAndLargeImagesDoNotOverflow) {
  const Image image{1, 4, 1, {0, 1, 254, 255}};
  EXPECT_EQ(resized(image, 1, 2, ImageResize::kStretch, "X").pixels,
            (std::vector<uint8_t>{1, 255}));
  const Image large{8192, 8192, 1, std::vector<uint8_t>(8192 * 8192, 255)};
  EXPECT_EQ(resized(large, 3, 5, ImageResize::kStretch, "X").pixels, std::vector<uint8_t>(15, 255));
}

TEST(Resize, CropKeepsTheMiddle) {
  Image image{4, 10, 1, {}};
  for (int y = 0; y < 4; ++y)
    for (int x = 0; x < 10; ++x) image.pixels.push_back(static_cast<uint8_t>(10 * y + x));
  const Image square = resized(image, 2, 2, ImageResize::kCrop, "X");  // of columns 3 to 6
  EXPECT_EQ(square.pixels, (std::vector<uint8_t>{9, 11, 29, 31}));     // 8.5, 10.5, 28.5, 30.5
  const Image row = resized(image, 1, 10, ImageResize::kCrop, "X");
  EXPECT_EQ(row.pixels, std::vector<uint8_t>(image.pixels.begin() + 10, image.pixels.begin() + 20));
  EXPECT_EQ(resized(image, 4, 10, ImageResize::kNone, "X").pixels, image.pixels);
  EXPECT_THROW(resized(image, 4, 9, ImageResize::kNone, "X"), Error);
}

TEST(Grid, PutsImagesSideBySide) {
  const std::vector<uint8_t> images = {1, 2, 3, 4, 5, 6};  // three of 1 x 2
  const Image grid = image_grid(images, 1, 2, 1, 2);
  EXPECT_EQ(grid.height, 3);
  EXPECT_EQ(grid.width, 5);
  EXPECT_EQ(grid.pixels, (std::vector<uint8_t>{1, 2, 255, 3, 4,          //
                                               255, 255, 255, 255, 255,  //
                                               5, 6, 255, 255, 255}));
  EXPECT_EQ(image_grid(images, 1, 2, 1).width, 5);
  EXPECT_THROW(image_grid(images, 1, 4, 1), Error);
}

}  // namespace
}  // namespace lace
