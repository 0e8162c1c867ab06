// MP3 by libmpg123 itself: libsndfile, which calls it too, ends a file of changing bit rate where
// its first frame would have the file end, and lets mpg123 print.

#include <array>

#include <mpg123.h>

#include "core/safe_text.h"
#include "data/audio_decoder.h"
#include "data/decode_audio.h"

namespace lace {
namespace {

// The bytes of the MP3 frame that begins with this head; 0 if it is none, or does not say.
int64_t mp3_frame_bytes(std::span<const uint8_t> head) {
  constexpr int kKbits[2][15] = {{0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320},
                                 {0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160}};
  constexpr int kHertz[3] = {44100, 48000, 32000};
  if (!is_audio(head) || head[0] != 0xff) return 0;
  const int version = head[1] >> 3 & 3;  // 3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5
  if (version == 1) return 0;
  const int kbits = kKbits[version == 3 ? 0 : 1][head[2] >> 4];
  const int hertz = kHertz[head[2] >> 2 & 3] >> (version == 3 ? 0 : version == 2 ? 1 : 2);
  const int padding = head[2] >> 1 & 1;
  return kbits == 0 ? 0 : (version == 3 ? 144'000 : 72'000) * kbits / hertz + padding;
}

// The first byte after the ID3 tags that an MP3 file begins with.
int64_t begin_of_mp3(const ByteSource& source, int64_t bytes) {
  std::array<uint8_t, 10> head;
  int64_t at = 0;
  while (at <= bytes - 10) {
    source.read(at, head);
    if (!begins(head, "ID3")) break;
    int64_t size = 0;
    for (size_t i = 6; i < 10; ++i) size = size << 7 | (head[i] & 0x7f);
    at += 10 + size + ((head[5] & 0x10) != 0 ? 10 : 0);
  }
  return at;
}

}  // namespace

int64_t end_of_mp3(const ByteSource& source, int64_t bytes) {
  std::array<uint8_t, 4> head;
  int64_t at = begin_of_mp3(source, bytes);
  while (at <= bytes - 4) {
    source.read(at, head);
    const int64_t size = mp3_frame_bytes(head);
    if (size == 0) return -1;
    at += size;
  }
  return at < bytes ? at + 4 : at;  // a head that is cut off itself
}

namespace {

// Whether the first frame of an MP3 file counts the others: a Xing or Info header with its flag 1.
// Else their number is a guess from the file's size.
bool counts_frames(const ByteSource& source, int64_t bytes) {
  const int64_t at = begin_of_mp3(source, bytes);
  std::array<uint8_t, 44> frame;
  if (at > bytes - static_cast<int64_t>(frame.size())) return false;
  source.read(at, frame);
  const bool mpeg1 = (frame[1] >> 3 & 3) == 3, mono = frame[3] >> 6 == 3;
  const size_t side = mpeg1 ? (mono ? 17 : 32) : (mono ? 9 : 17);
  const auto header = std::span(frame).subspan(4 + side);
  return (begins(header, "Xing") || begins(header, "Info")) && (header[7] & 1) != 0;
}

class Mp3Decoder : public AudioDecoder {
 public:
  Mp3Decoder(AudioInput& input, const std::string& shown) : input_(input), shown_(shown) {
    int failure = MPG123_OK;
    handle_.reset(mpg123_new(nullptr, &failure));
    LACE_CHECK(handle_, "[audio] mpg123 cannot start: ", mpg123_plain_strerror(failure));
    mpg123_handle* handle = handle_.get();
    long rate = 0;
    int channel_count = 0, encoding = 0;
    const bool open =
        mpg123_param(handle, MPG123_ADD_FLAGS, MPG123_QUIET | MPG123_FORCE_FLOAT, 0) == MPG123_OK &&
        mpg123_param(handle, MPG123_REMOVE_FLAGS, MPG123_AUTO_RESAMPLE, 0) == MPG123_OK &&
        mpg123_replace_reader_handle(handle, read_input, seek_input, nullptr) == MPG123_OK &&
        mpg123_open_handle(handle, &input) == MPG123_OK &&
        mpg123_getformat(handle, &rate, &channel_count, &encoding) == MPG123_OK;
    input.rethrow();
    LACE_CHECK(open, "[audio] ", shown, " is damaged: ", printable(mpg123_strerror(handle)));
    // It changes no more from here on.
    mpg123_format_none(handle);
    mpg123_format(handle, rate, channel_count, MPG123_ENC_FLOAT_32);
    sample_rate = rate;
    channels = channel_count;
    if (counts_frames(input.source, input.bytes)) frames = mpg123_length(handle);
  }

  int64_t read(std::span<float> samples) override {
    size_t bytes = 0;
    const int code = mpg123_read(handle_.get(), reinterpret_cast<unsigned char*>(samples.data()),
                                 samples.size_bytes(), &bytes);
    input_.rethrow();
    LACE_CHECK(code == MPG123_OK || code == MPG123_DONE || code == MPG123_NEED_MORE, "[audio] ",
               shown_, " is damaged, or its rate or channels change: ",
               printable(code == MPG123_ERR ? mpg123_strerror(handle_.get())
                                            : mpg123_plain_strerror(code)));
    return static_cast<int64_t>(bytes / sizeof(float)) / channels;
  }

 private:
  static ssize_t read_input(void* input, void* to, size_t count) {
    return static_cast<AudioInput*>(input)->read(to, static_cast<int64_t>(count));
  }
  static off_t seek_input(void* input, off_t offset, int whence) {
    return static_cast<AudioInput*>(input)->seek(offset, whence);
  }

  AudioInput& input_;
  std::string shown_;
  std::unique_ptr<mpg123_handle, void (*)(mpg123_handle*)> handle_{nullptr, mpg123_delete};
};

}  // namespace

std::unique_ptr<AudioDecoder> open_mp3(AudioInput& input, const std::string& shown) {
  return std::make_unique<Mp3Decoder>(input, shown);
}

}  // namespace lace
