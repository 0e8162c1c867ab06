// Data of images: files of every kind to records, and records to splits.

#include <map>
#include <random>

#include "lace/image.h"

#include "data/image_files.h"
#include "data/packers.h"
#include "data/temp_folder.h"

namespace lace {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class ImagesTest : public TempFolderTest {
 protected:
  ImageOptions options(int64_t height = 32, int64_t width = 32) const {
    return {.paths = {path("in")},
            .height = height,
            .width = width,
            .channels = 3,
            .validation_fraction = 0,
            .test_fraction = 0,
            .cache = path("cache")};
  }

  static std::string error(const ImageOptions& options) {
    try {
      load_images(options);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
};

std::string random_bytes(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::string bytes(count, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

Image image_of(const std::string& pixels, int64_t height, int64_t width) {
  return {height, width, 3, std::vector<uint8_t>(pixels.begin(), pixels.end())};
}

TEST_F(ImagesTest, FoldersMixKinds) {
  const std::string records = random_bytes(5 * 36, 1);  // of 3 x 4 pixels
  write("in/a.png", encode_png(image_of(records.substr(0, 36), 3, 4)));
  write("in/b.hwc.xz", xzed(records.substr(36, 72)));
  write("in/c.raw", records.substr(108, 36));
  write("in/d.jpg", encode_png(image_of(records.substr(144, 36), 3, 4)));  // whatever its name
  write("in/readme.html", "<p>images</p>");
  write("in/.hidden.png", "x");
  const Dataset data = load_images(options(3, 4));
  EXPECT_EQ(text(data.train), records);
  EXPECT_EQ(data.kind, DataKind::kImages);
  EXPECT_EQ(data.record_bytes, 36);
  EXPECT_EQ(data.files, 4);
  ASSERT_EQ(data.notes.size(), 2u);
  EXPECT_EQ(data.notes[1], "no images: 1 (" + path("in/readme.html") + ")");

  // Of the cache, the next load reads what was decoded.
  write("in/a.png", "");
  std::filesystem::remove(path("in/a.png"));
  EXPECT_EQ(text(load_images(options(3, 4)).train), records.substr(36));
}

// Label and planes by hand.
std::string cifar_file(const std::string& records) {
  std::string file;
  for (size_t r = 0; r < records.size() / 3072; ++r) {
    file += static_cast<char>(r % 10);
    for (size_t c = 0; c < 3; ++c)
      for (size_t i = 0; i < 1024; ++i) file += records[r * 3072 + 3 * i + c];
  }
  return file;
}

TEST_F(ImagesTest, Cifar10IsDealtAsThePaperDoes) {
  const std::string records = random_bytes(300 * 3072, 2);
  write("in/data_batch_1.bin", cifar_file(records.substr(0, 100 * 3072)));
  write("in/data_batch_2.bin", cifar_file(records.substr(100 * 3072, 100 * 3072)));
  write("in/test_batch.bin", cifar_file(records.substr(200 * 3072)));
  write("in/batches.meta.txt", "airplane\n");
  ImageOptions given = options();
  given.validation_fraction = 0.04;
  const Dataset data = load_images(given);
  EXPECT_EQ(data.train.size(), 192 * 3072);
  EXPECT_EQ(data.validation.size(), 8 * 3072);
  EXPECT_EQ(text(data.test), records.substr(200 * 3072));
  EXPECT_EQ(data.train.pieces(), 1);

  // Every image of the batches is in one split, once, in the order of the files.
  std::map<std::string, int64_t> place;
  for (int64_t i = 0; i < 200; ++i) place[records.substr(static_cast<size_t>(i) * 3072, 3072)] = i;
  std::vector<int> seen(200);
  std::vector<int64_t> held;
  for (const DataSplit* split : {&data.train, &data.validation}) {
    const std::string bytes = text(*split);
    int64_t last = -1;
    for (size_t at = 0; at < bytes.size(); at += 3072) {
      const int64_t i = place.at(bytes.substr(at, 3072));
      EXPECT_GT(i, last);
      last = i;
      ++seen[static_cast<size_t>(i)];
      if (split == &data.validation) held.push_back(i);
    }
  }
  EXPECT_EQ(seen, std::vector<int>(200, 1));
  EXPECT_GT(held.back() - held.front(), 50) << "not in a row";
  EXPECT_EQ(held, (std::vector<int64_t>{16, 60, 98, 101, 175, 179, 184, 196})) << "for ever";

  // To score all of it.
  given.whole = true;
  EXPECT_EQ(text(load_images(given).train), records);
}

TEST_F(ImagesTest, SharesAreRoundedDownAndExact) {
  write_sparse("in/images.hwc", int64_t{50'000} * 3072);
  std::filesystem::resize_file(write("in/images.hwc", ""), 50'000 * 3072);
  ImageOptions given = options();
  given.validation_fraction = 0.04;
  given.test_fraction = 0.1;
  const Dataset data = load_images(given);
  EXPECT_EQ(data.train.size() / 3072, 43'000);
  EXPECT_EQ(data.validation.size() / 3072, 2'000);
  EXPECT_EQ(data.test.size() / 3072, 5'000);
}

TEST_F(ImagesTest, OtherSizesAreResizedOnRequest) {
  const std::string pixels = random_bytes(6 * 8 * 3, 3);
  const Image image = image_of(pixels, 6, 8);
  write("in/a.png", encode_png(image));
  EXPECT_EQ(error(options(3, 4)),
            concat("[images] ", path("in/a.png"),
                   " is 8 x 6 pixels, the model's images are 4 x 3: data.resize may be "
                   "\"stretch\" or \"crop\""));
  ImageOptions given = options(3, 4);
  for (const ImageResize how : {ImageResize::kStretch, ImageResize::kCrop}) {
    given.resize = how;
    const auto expected = resized(image, 3, 4, how, "").pixels;
    EXPECT_EQ(text(load_images(given).train), std::string(expected.begin(), expected.end()));
  }
  given = options(3, 3);
  given.resize = ImageResize::kCrop;
  EXPECT_EQ(load_images(given).train.size(), 27);
}

TEST_F(ImagesTest, ManyFilesAreDecodedInOrder) {
  std::string all;
  for (int i = 0; i < 700; ++i) {
    const std::string pixels = random_bytes(12, static_cast<uint32_t>(i));
    write(concat("in/", 1000 + i, ".png"), encode_png(image_of(pixels, 2, 2)));
    all += pixels;
  }
  EXPECT_TRUE(text(load_images(options(2, 2)).train) == all);
  const std::string png = encode_png(image_of(random_bytes(12, 1), 2, 2));
  write("in/1300.png", png.substr(0, png.size() - 5));
  write("in/1600.png", png.substr(0, png.size() - 5));
  EXPECT_EQ(error(options(2, 2)),
            concat("[images] ", path("in/1300.png"), " is no sound PNG file: it is cut off"));
}

TEST_F(ImagesTest, WhatIsWrongIsNamed) {
  write("in/notes.txt", "no image");
  EXPECT_TRUE(contains(error(options()), "no images to train on in " + path("in")))
      << error(options());
  ImageOptions given = options();
  given.paths = {write("raw/x", std::string(3073, 'x'))};
  EXPECT_TRUE(contains(error(given), "its 3073 bytes are no images of 32 x 32 x 3 bytes"));
  given.paths = {write("cut/data_batch_1.bin", std::string(3074, '\0'))};
  EXPECT_TRUE(contains(error(given), "records of 3073 bytes")) << error(given);
  given.paths = {write("label/data_batch_1.bin", std::string(3073, '\x0a'))};
  EXPECT_TRUE(contains(error(given), "image 0 has label 10")) << error(given);
  given.height = 0;
  EXPECT_TRUE(contains(error(given), "height"));
}

}  // namespace
}  // namespace lace
