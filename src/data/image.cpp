#include "lace/image.h"

#include <algorithm>
#include <cmath>

#include "data/decode_image.h"

namespace lace {
namespace {

// The pixels of one side that a new pixel covers, with their weights: an old pixel is `to` long, a
// new one `from`, so that all weights are whole and those of a new pixel add up to `from`.
struct Cover {
  int64_t first;
  std::vector<uint64_t> weights;
};

std::vector<Cover> covers(int64_t from, int64_t to) {
  std::vector<Cover> result;
  for (int64_t i = 0; i < to; ++i) {
    const int64_t begin = i * from, end = begin + from;
    Cover cover{begin / to, {}};
    for (int64_t old = cover.first; old * to < end; ++old)
      cover.weights.push_back(
          static_cast<uint64_t>(std::min(end, (old + 1) * to) - std::max(begin, old * to)));
    result.push_back(std::move(cover));
  }
  return result;
}

// Sums of a row over the columns of new pixels: [width, channels].
void add_row(const uint8_t* row, int64_t channels, const std::vector<Cover>& columns,
             uint64_t weight, std::vector<uint64_t>& sums) {
  uint64_t* sum = sums.data();
  for (const Cover& column : columns) {
    const uint8_t* pixel = row + column.first * channels;
    for (const uint64_t w : column.weights) {
      for (int64_t c = 0; c < channels; ++c) sum[c] += weight * w * pixel[c];
      pixel += channels;
    }
    sum += channels;
  }
}

Image cropped(const Image& image, int64_t height, int64_t width) {
  const int64_t top = (image.height - height) / 2, left = (image.width - width) / 2;
  Image result{height, width, image.channels, {}};
  for (int64_t y = 0; y < height; ++y) {
    const auto row = image.pixels.begin() + ((top + y) * image.width + left) * image.channels;
    result.pixels.insert(result.pixels.end(), row, row + width * image.channels);
  }
  return result;
}

// The largest part in the middle whose sides are as height to width.
Image with_shape(const Image& image, int64_t height, int64_t width) {
  const auto share = [](int64_t side, int64_t a, int64_t b) {  // side · a / b, rounded
    return std::max<int64_t>(1, (2 * side * a + b) / (2 * b));
  };
  if (image.height * width > image.width * height)
    return cropped(image, share(image.width, height, width), image.width);
  return cropped(image, image.height, share(image.height, width, height));
}

}  // namespace

void check_image_size(int64_t height, int64_t width, const std::string& name) {
  LACE_CHECK(height > 0 && width > 0 && height <= kMaxImageSide && width <= kMaxImageSide &&
                 height * width <= kMaxImagePixels,
             "[images] ", name, " must have sides of at most ", kMaxImageSide, " and at most ",
             kMaxImagePixels, " pixels, got ", width, " x ", height);
}

Image decode_image(std::span<const uint8_t> file, const std::string& name) {
  if (is_png(file)) return decode_png(file, name);
  LACE_CHECK(is_jpeg(file), "[images] ", name, " is neither a PNG nor a JPEG file");
  return decode_jpeg(file, name);
}

Image with_channels(Image image, int64_t channels, const std::string& name) {
  LACE_CHECK(channels == 1 || channels == 3 || channels == 4,
             "[images] PNG and JPEG files have 1, 3 or 4 channels, asked for ", channels);
  if (image.channels == channels) return image;
  Image result{image.height, image.width, channels, {}};
  const auto from = static_cast<size_t>(image.channels);
  result.pixels.reserve(image.pixels.size() / from * static_cast<size_t>(channels));
  for (size_t i = 0; i < image.pixels.size(); i += from) {
    const uint8_t* pixel = image.pixels.data() + i;
    const uint8_t opacity = from == 4 ? pixel[3] : 255;
    LACE_CHECK(channels == 4 || opacity == 255, "[images] ", name,
               " has pixels that are not opaque: model.image_channels must be 4, or they must be "
               "put on a ground first");
    const int red = pixel[0], green = pixel[from == 1 ? 0 : 1], blue = pixel[from == 1 ? 0 : 2];
    if (channels == 1) {
      result.pixels.push_back(
          static_cast<uint8_t>((299 * red + 587 * green + 114 * blue + 500) / 1000));
      continue;
    }
    for (const int value : {red, green, blue}) result.pixels.push_back(static_cast<uint8_t>(value));
    if (channels == 4) result.pixels.push_back(opacity);
  }
  return result;
}

Image resized(Image image, int64_t height, int64_t width, ImageResize how,
              const std::string& name) {
  if (image.height == height && image.width == width) return image;
  LACE_CHECK(how != ImageResize::kNone, "[images] ", name, " is ", image.width, " x ", image.height,
             " pixels, the model's images are ", width, " x ", height,
             ": data.resize may be \"stretch\" or \"crop\"");
  check_image_size(height, width, "an image");
  if (how == ImageResize::kCrop) image = with_shape(image, height, width);
  const std::vector<Cover> columns = covers(image.width, width);
  const uint64_t area = static_cast<uint64_t>(image.height) * static_cast<uint64_t>(image.width);
  Image result{height, width, image.channels, {}};
  std::vector<uint64_t> sums;
  for (const Cover& rows : covers(image.height, height)) {
    sums.assign(static_cast<size_t>(width * image.channels), area / 2);
    for (size_t i = 0; i < rows.weights.size(); ++i) {
      const int64_t y = rows.first + static_cast<int64_t>(i);
      add_row(image.pixels.data() + y * image.width * image.channels, image.channels, columns,
              rows.weights[i], sums);
    }
    for (const uint64_t sum : sums) result.pixels.push_back(static_cast<uint8_t>(sum / area));
  }
  return result;
}

Image image_grid(std::span<const uint8_t> images, int64_t height, int64_t width, int64_t channels,
                 int64_t columns) {
  const int64_t bytes = height * width * channels;
  LACE_CHECK(bytes > 0 && static_cast<int64_t>(images.size()) % bytes == 0 && !images.empty(),
             "[images] a grid takes whole images of ", bytes, " bytes, got ", images.size());
  const int64_t count = static_cast<int64_t>(images.size()) / bytes;
  if (columns <= 0)
    columns = static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(count))));
  columns = std::min(columns, count);
  const int64_t rows = (count + columns - 1) / columns;
  Image grid{rows * (height + 1) - 1, columns * (width + 1) - 1, channels, {}};
  check_image_size(grid.height, grid.width, "a grid of images");
  grid.pixels.assign(static_cast<size_t>(grid.height * grid.width * channels), 255);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t top = i / columns * (height + 1), left = i % columns * (width + 1);
    for (int64_t y = 0; y < height; ++y) {
      const auto* row = images.data() + i * bytes + y * width * channels;
      std::copy_n(row, width * channels,
                  grid.pixels.data() + ((top + y) * grid.width + left) * channels);
    }
  }
  return grid;
}

}  // namespace lace
