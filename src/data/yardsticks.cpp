#include "data/yardsticks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include <lzma.h>
#include <zlib.h>

namespace lace {

double order_0_entropy(const ByteStream& stream) {
  std::array<int64_t, 256> counts{};
  stream.each_chunk([&](std::span<const uint8_t> chunk) {
    for (const uint8_t byte : chunk) ++counts[byte];
  });
  double bits = 0;
  for (const int64_t count : counts) {
    const double share = static_cast<double>(count) / static_cast<double>(stream.size());
    if (count > 0) bits -= share * std::log2(share);
  }
  return bits;
}

int64_t gzip_bytes(std::span<const uint8_t> bytes) {
  z_stream stream{};
  LACE_CHECK(deflateInit2(&stream, 9, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK,
             "[data] zlib cannot begin");
  std::vector<uint8_t> out(1 << 16);
  int64_t packed = 0;
  for (int result = Z_OK; result != Z_STREAM_END;) {
    const auto part = bytes.first(std::min(bytes.size(), size_t{1} << 20));
    if (stream.avail_in == 0) {
      stream.next_in = const_cast<Bytef*>(part.data());
      stream.avail_in = static_cast<uInt>(part.size());
      bytes = bytes.subspan(part.size());
    }
    stream.next_out = out.data();
    stream.avail_out = static_cast<uInt>(out.size());
    result = deflate(&stream, bytes.empty() ? Z_FINISH : Z_NO_FLUSH);
    packed += static_cast<int64_t>(out.size() - stream.avail_out);
  }
  deflateEnd(&stream);
  return packed;
}

int64_t xz_bytes(std::span<const uint8_t> bytes) {
  lzma_stream stream = LZMA_STREAM_INIT;
  LACE_CHECK(lzma_easy_encoder(&stream, 9, LZMA_CHECK_CRC64) == LZMA_OK,
             "[data] liblzma cannot begin");
  stream.next_in = bytes.data();
  stream.avail_in = bytes.size();
  std::vector<uint8_t> out(1 << 16);
  int64_t packed = 0;
  for (lzma_ret result = LZMA_OK; result == LZMA_OK;) {
    stream.next_out = out.data();
    stream.avail_out = out.size();
    result = lzma_code(&stream, LZMA_FINISH);
    packed += static_cast<int64_t>(out.size() - stream.avail_out);
  }
  lzma_end(&stream);
  return packed;
}

}  // namespace lace
