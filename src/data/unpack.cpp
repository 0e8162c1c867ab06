#include "data/unpack.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include "lace/error.h"

namespace lace {
namespace {

constexpr size_t kInput = size_t{1} << 18, kOutput = size_t{1} << 20;
constexpr uint64_t kMaxMemory = uint64_t{1} << 30;
constexpr int kMaxWindowLog = 30;  // of zstd: kMaxMemory

// What is left of a buffer.
template <typename Byte>
using Rest = std::span<Byte>;

class Decoder {
 public:
  virtual ~Decoder() = default;
  // Takes bytes off the front of `in` and fills the front of `out`; `last`: the file ends with
  // `in`. True where a stream ends, after which another may begin. Throws std::string, what is
  // wrong with the bytes.
  virtual bool step(Rest<const uint8_t>& in, Rest<uint8_t>& out, bool last) = 0;
};

// zlib and liblzma have the same fields.
template <typename Stream, typename Call>
auto with_buffers(Stream& stream, Rest<const uint8_t>& in, Rest<uint8_t>& out, const Call& call) {
  using Size = decltype(stream.avail_in);
  stream.next_in = const_cast<decltype(stream.next_in)>(in.data());
  stream.avail_in = static_cast<Size>(in.size());
  stream.next_out = out.data();
  stream.avail_out = static_cast<Size>(out.size());
  const auto result = call();
  in = in.last(stream.avail_in);
  out = out.last(stream.avail_out);
  return result;
}

class GzipDecoder : public Decoder {
 public:
  GzipDecoder() {
    LACE_CHECK(inflateInit2(&stream_, MAX_WBITS + 16) == Z_OK, "[unpack] zlib cannot begin");
  }
  ~GzipDecoder() override { inflateEnd(&stream_); }

  bool step(Rest<const uint8_t>& in, Rest<uint8_t>& out, bool) override {
    const int result =
        with_buffers(stream_, in, out, [this] { return inflate(&stream_, Z_NO_FLUSH); });
    if (result == Z_STREAM_END) {
      inflateReset(&stream_);
      return true;
    }
    if (result == Z_OK || result == Z_BUF_ERROR) return false;
    throw std::string(stream_.msg != nullptr ? stream_.msg : "no gzip data");
  }

 private:
  z_stream stream_{};
};

class XzDecoder : public Decoder {
 public:
  XzDecoder() {
    LACE_CHECK(lzma_stream_decoder(&stream_, kMaxMemory, LZMA_CONCATENATED) == LZMA_OK,
               "[unpack] liblzma cannot begin");
  }
  ~XzDecoder() override { lzma_end(&stream_); }

  bool step(Rest<const uint8_t>& in, Rest<uint8_t>& out, bool last) override {
    const lzma_ret result = with_buffers(
        stream_, in, out, [&] { return lzma_code(&stream_, last ? LZMA_FINISH : LZMA_RUN); });
    switch (result) {
      case LZMA_OK:
      case LZMA_BUF_ERROR:
        return false;
      case LZMA_STREAM_END:
        return true;
      case LZMA_MEM_ERROR:
      case LZMA_MEMLIMIT_ERROR:
        throw std::string("it asks for more than 1 GiB of memory");
      case LZMA_OPTIONS_ERROR:
        throw std::string("it uses what liblzma does not know");
      default:
        throw std::string("the data or their checksum are wrong");
    }
  }

 private:
  lzma_stream stream_ = LZMA_STREAM_INIT;
};

class ZstdDecoder : public Decoder {
 public:
  ZstdDecoder() : context_(ZSTD_createDCtx()) {
    LACE_CHECK(context_ != nullptr, "[unpack] zstd cannot begin");
    ZSTD_DCtx_setParameter(context_, ZSTD_d_windowLogMax, kMaxWindowLog);
  }
  ~ZstdDecoder() override { ZSTD_freeDCtx(context_); }

  bool step(Rest<const uint8_t>& in, Rest<uint8_t>& out, bool) override {
    ZSTD_inBuffer input{in.data(), in.size(), 0};
    ZSTD_outBuffer output{out.data(), out.size(), 0};
    const size_t result = ZSTD_decompressStream(context_, &output, &input);
    in = in.subspan(input.pos);
    out = out.subspan(output.pos);
    if (ZSTD_isError(result)) throw std::string(ZSTD_getErrorName(result));
    return result == 0;
  }

 private:
  ZSTD_DCtx* context_;
};

std::unique_ptr<Decoder> decoder_of(Packing packing) {
  switch (packing) {
    case Packing::kGzip:
      return std::make_unique<GzipDecoder>();
    case Packing::kXz:
      return std::make_unique<XzDecoder>();
    case Packing::kZstd:
      return std::make_unique<ZstdDecoder>();
    case Packing::kNone:
      break;
  }
  throw Error("[unpack] the file is not packed");
}

bool is_tar(std::span<const uint8_t> beginning) {
  constexpr size_t kMagicAt = 257;
  return beginning.size() >= kMagicAt + 5 &&
         std::memcmp(beginning.data() + kMagicAt, "ustar", 5) == 0;
}

}  // namespace

Packing packing_of(std::span<const uint8_t> beginning) {
  const std::string_view text(reinterpret_cast<const char*>(beginning.data()), beginning.size());
  if (text.starts_with("\x1f\x8b\x08")) return Packing::kGzip;
  if (text.starts_with(std::string_view("\xfd"
                                        "7zXZ\0",
                                        6)))
    return Packing::kXz;
  if (text.starts_with("\x28\xb5\x2f\xfd")) return Packing::kZstd;
  return Packing::kNone;
}

const char* name(Packing packing) {
  constexpr std::array<const char*, 4> kNames = {"none", "gzip", "xz", "zstd"};
  return kNames[static_cast<size_t>(packing)];
}

void unpack(Packing packing, const std::string& shown,
            const std::function<size_t(std::span<uint8_t>)>& read,
            const std::function<void(std::span<const uint8_t>)>& write) {
  const std::unique_ptr<Decoder> decoder = decoder_of(packing);
  std::vector<uint8_t> input(kInput), output(kOutput);
  std::span<const uint8_t> in;
  int64_t taken = 0;  // bytes of the file that are behind `in`
  bool last = false, first_output = true, between = false;
  for (;;) {
    if (in.empty() && !last) {
      const size_t got = read(input);
      in = std::span(input).first(got);
      last = got == 0;
    }
    if (between && last) return;
    const size_t before = in.size();
    std::span<uint8_t> out = output;
    try {
      between = decoder->step(in, out, last);
    } catch (const std::string& fault) {
      throw Error(concat("[unpack] ", shown, " is damaged at byte ",
                         taken + static_cast<int64_t>(before - in.size()), " of its ",
                         name(packing), " data: ", fault));
    }
    taken += static_cast<int64_t>(before - in.size());
    const auto made = std::span(output).first(output.size() - out.size());
    LACE_CHECK(!first_output || !is_tar(made), "[unpack] ", shown,
               " holds a tar archive: unpack it first");
    first_output = first_output && made.empty();
    if (!made.empty()) write(made);
    LACE_CHECK(between || !last || before != in.size() || !made.empty(), "[unpack] ", shown,
               " is cut off: its ", name(packing), " data end at byte ", taken,
               " before they are complete");
  }
}

}  // namespace lace
