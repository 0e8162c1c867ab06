#include <csetjmp>
#include <cstdio>  // jpeglib.h needs it

#include <jerror.h>
#include <jpeglib.h>

#include "data/decode_image.h"

namespace lace {
namespace {

constexpr int kMaxScans = 200;  // of a progressive file: each reads all coefficients

// libjpeg leaves by longjmp, so nothing between it and the setjmp may have a destructor.
struct Errors {
  jpeg_error_mgr manager;
  std::jmp_buf jump;
  char text[JMSG_LENGTH_MAX];
};

[[noreturn]] void fail(j_common_ptr common) {
  auto* errors = reinterpret_cast<Errors*>(common->err);
  common->err->format_message(common, errors->text);
  std::longjmp(errors->jump, 1);
}

// libjpeg goes on with grey pixels where data are missing or damaged. Here that is an error; what
// spoils no pixel is none.
void on_message(j_common_ptr common, int level) {
  if (level >= 0) return;
  switch (common->err->msg_code) {
    case JWRN_ADOBE_XFORM:
    case JWRN_EXTRANEOUS_DATA:
    case JWRN_JFIF_MAJOR:
      return;
    default:
      fail(common);
  }
}

class JpegReader {
 public:
  explicit JpegReader(std::span<const uint8_t> file) : file_(file) {
    jpeg_.err = jpeg_std_error(&errors_.manager);
    errors_.manager.error_exit = fail;
    errors_.manager.emit_message = on_message;
  }
  ~JpegReader() { jpeg_destroy_decompress(&jpeg_); }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;

  // False, and error(), if the file is damaged.
  bool read_header() {
    if (setjmp(errors_.jump) != 0) return false;
    jpeg_create_decompress(&jpeg_);
    jpeg_mem_src(&jpeg_, file_.data(), file_.size());
    jpeg_read_header(&jpeg_, TRUE);
    return true;
  }
  bool is_cmyk() const {
    return jpeg_.jpeg_color_space == JCS_CMYK || jpeg_.jpeg_color_space == JCS_YCCK;
  }
  bool begin_pixels() {
    if (setjmp(errors_.jump) != 0) return false;
    const bool grey = jpeg_.jpeg_color_space == JCS_GRAYSCALE;
    jpeg_.out_color_space = grey ? JCS_GRAYSCALE : JCS_RGB;
    progress_.progress_monitor = on_progress;
    jpeg_.progress = &progress_;
    jpeg_start_decompress(&jpeg_);
    return true;
  }
  bool read_pixels(uint8_t* pixels) {
    if (setjmp(errors_.jump) != 0) return false;
    const size_t row_bytes = size_t{jpeg_.output_width} * static_cast<size_t>(channels());
    while (jpeg_.output_scanline < jpeg_.output_height) {
      JSAMPROW row = pixels + jpeg_.output_scanline * row_bytes;
      jpeg_read_scanlines(&jpeg_, &row, 1);
    }
    jpeg_finish_decompress(&jpeg_);
    return true;
  }

  const char* error() const { return errors_.text; }
  int64_t height() const { return jpeg_.image_height; }
  int64_t width() const { return jpeg_.image_width; }
  int64_t channels() const { return jpeg_.output_components; }

 private:
  static void on_progress(j_common_ptr common) {
    auto* jpeg = reinterpret_cast<j_decompress_ptr>(common);
    if (jpeg->input_scan_number > kMaxScans) ERREXIT(common, JERR_BAD_PROGRESSION);
  }

  std::span<const uint8_t> file_;
  jpeg_decompress_struct jpeg_{};
  jpeg_progress_mgr progress_{};
  Errors errors_{};
};

}  // namespace

bool is_jpeg(std::span<const uint8_t> beginning) {
  return beginning.size() >= 3 && beginning[0] == 0xff && beginning[1] == 0xd8 &&
         beginning[2] == 0xff;
}

Image decode_jpeg(std::span<const uint8_t> file, const std::string& name) {
  JpegReader jpeg(file);
  const auto check = [&](bool succeeded) {
    LACE_CHECK(succeeded, "[images] ", name, " is no sound JPEG file: ", jpeg.error());
  };
  check(jpeg.read_header());
  check_image_size(jpeg.height(), jpeg.width(), name);
  LACE_CHECK(!jpeg.is_cmyk(), "[images] ", name,
             " is a JPEG file of CMYK, which depends on a printer: convert it to RGB");
  check(jpeg.begin_pixels());
  Image image{jpeg.height(), jpeg.width(), jpeg.channels(), {}};
  image.pixels.resize(static_cast<size_t>(image.height * image.width * image.channels));
  check(jpeg.read_pixels(image.pixels.data()));
  return image;
}

}  // namespace lace
