// Any bytes are an image, or an error of lace's own.

#include "lace/image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    lace::Image image = lace::decode_image({data, size}, "input");
    if (image.pixels.size() != static_cast<size_t>(image.height * image.width * image.channels))
      __builtin_trap();
    if (image.height * image.width > 1 << 20) return 0;
    image = lace::with_channels(std::move(image), 4, "input");
    lace::resized(std::move(image), 7, 5, lace::ImageResize::kCrop, "input");
  } catch (const lace::Error&) {
  }
  return 0;
}
