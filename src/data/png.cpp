#include <csetjmp>
#include <cstring>

#include <png.h>

#include "data/decode_image.h"

namespace lace {
namespace {

constexpr png_alloc_size_t kMaxChunk = 8 << 20;  // of text, profiles and the like
constexpr int kMaxChunks = 1000;

// What libpng's callbacks see. libpng leaves by longjmp, so nothing between it and the setjmp may
// have a destructor.
struct Reading {
  const uint8_t* at;
  size_t left;
  char error[200];
};

void read_bytes(png_structp png, png_bytep to, png_size_t count) {
  auto* reading = static_cast<Reading*>(png_get_io_ptr(png));
  if (count > reading->left) png_error(png, "it is cut off");
  std::memcpy(to, reading->at, count);
  reading->at += count;
  reading->left -= count;
}

void on_error(png_structp png, png_const_charp text) {
  auto* reading = static_cast<Reading*>(png_get_error_ptr(png));
  std::strncpy(reading->error, text, sizeof reading->error - 1);
  png_longjmp(png, 1);
}

void on_warning(png_structp, png_const_charp) {}

void append_bytes(png_structp png, png_bytep bytes, png_size_t count) {
  static_cast<std::string*>(png_get_io_ptr(png))->append(reinterpret_cast<char*>(bytes), count);
}

// libpng's state of reading one file.
class PngReader {
 public:
  explicit PngReader(std::span<const uint8_t> file) : reading_{file.data(), file.size(), {}} {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, &reading_, on_error, on_warning);
    info_ = png_ == nullptr ? nullptr : png_create_info_struct(png_);
    LACE_CHECK(info_ != nullptr, "[images] libpng cannot begin");
    png_set_read_fn(png_, &reading_, read_bytes);
    png_set_user_limits(png_, kMaxImageSide, kMaxImageSide);
    png_set_chunk_malloc_max(png_, kMaxChunk);
    png_set_chunk_cache_max(png_, kMaxChunks);
  }
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;

  // False, and error(), if the file is damaged.
  bool read_header() {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_read_info(png_, info_);
    return true;
  }
  // 8 bits a channel, no palette; afterwards size and channels are known.
  bool begin_pixels() {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_set_expand(png_);
    png_set_scale_16(png_);
    png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    return true;
  }
  // To the end of the file.
  bool read_pixels(png_bytepp rows) {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_read_image(png_, rows);
    png_read_end(png_, nullptr);
    return true;
  }

  const char* error() const { return reading_.error; }
  int64_t height() const { return png_get_image_height(png_, info_); }
  int64_t width() const { return png_get_image_width(png_, info_); }
  int64_t channels() const { return png_get_channels(png_, info_); }
  int64_t row_bytes() const { return static_cast<int64_t>(png_get_rowbytes(png_, info_)); }

 private:
  Reading reading_;
  png_structp png_;
  png_infop info_;
};

// Grey with opacity as four channels, so that there are 1, 3 or 4 only.
std::vector<uint8_t> four_of_two(const std::vector<uint8_t>& pixels) {
  std::vector<uint8_t> result;
  result.reserve(2 * pixels.size());
  for (size_t i = 0; i < pixels.size(); i += 2)
    result.insert(result.end(), {pixels[i], pixels[i], pixels[i], pixels[i + 1]});
  return result;
}

// Writes rows to `file`. False if libpng fails.
bool write_rows(png_structp png, png_infop info, const Image& image, int color, png_bytepp rows) {
  if (setjmp(png_jmpbuf(png)) != 0) return false;
  png_set_IHDR(png, info, static_cast<png_uint_32>(image.width),
               static_cast<png_uint_32>(image.height), 8, color, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_write_info(png, info);
  png_write_image(png, rows);
  png_write_end(png, nullptr);
  return true;
}

std::vector<png_bytep> rows_of(std::vector<uint8_t>& pixels, int64_t height) {
  std::vector<png_bytep> rows(static_cast<size_t>(height));
  for (size_t y = 0; y < rows.size(); ++y)
    rows[y] = pixels.data() + y * (pixels.size() / rows.size());
  return rows;
}

}  // namespace

bool is_png(std::span<const uint8_t> beginning) {
  return beginning.size() >= 8 && png_sig_cmp(beginning.data(), 0, 8) == 0;
}

Image decode_png(std::span<const uint8_t> file, const std::string& name) {
  PngReader png(file);
  const auto check = [&](bool succeeded) {
    LACE_CHECK(succeeded, "[images] ", name, " is no sound PNG file: ", png.error());
  };
  check(png.read_header());
  check_image_size(png.height(), png.width(), name);
  check(png.begin_pixels());
  Image image{png.height(), png.width(), png.channels(), {}};
  LACE_CHECK(png.row_bytes() == image.width * image.channels, "[images] ", name,
             " is a PNG file of a kind that is not known");
  image.pixels.resize(static_cast<size_t>(image.height * png.row_bytes()));
  check(png.read_pixels(rows_of(image.pixels, image.height).data()));
  if (image.channels == 2) {
    image.pixels = four_of_two(image.pixels);
    image.channels = 4;
  }
  return image;
}

std::string encode_png(const Image& image) {
  const int color = image.channels == 1   ? PNG_COLOR_TYPE_GRAY
                    : image.channels == 3 ? PNG_COLOR_TYPE_RGB
                                          : PNG_COLOR_TYPE_RGB_ALPHA;
  LACE_CHECK(image.channels == 1 || image.channels == 3 || image.channels == 4,
             "[images] a PNG file has 1, 3 or 4 channels, got ", image.channels);
  LACE_CHECK(image.height > 0 && image.width > 0, "[images] a PNG file needs pixels, got ",
             image.width, " x ", image.height);
  check_image_size(image.height, image.width, "the PNG file");
  LACE_CHECK(
      static_cast<int64_t>(image.pixels.size()) == image.height * image.width * image.channels,
      "[images] the pixels must be height x width x channels bytes, got ", image.pixels.size());
  Reading errors{};
  std::string file;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &errors, on_error, on_warning);
  png_infop info = png == nullptr ? nullptr : png_create_info_struct(png);
  LACE_CHECK(info != nullptr, "[images] libpng cannot begin");
  png_set_write_fn(png, &file, append_bytes, nullptr);
  std::vector<uint8_t> pixels = image.pixels;
  const bool written = write_rows(png, info, image, color, rows_of(pixels, image.height).data());
  png_destroy_write_struct(&png, &info);
  LACE_CHECK(written, "[images] a PNG file cannot be made: ", errors.error);
  return file;
}

}  // namespace lace
