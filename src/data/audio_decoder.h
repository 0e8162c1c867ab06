#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "lace/data.h"

namespace lace {

// A file as the decoders' libraries read it. What the source throws is kept, as it cannot pass
// through C.
struct AudioInput {
  const ByteSource& source;
  int64_t bytes;
  int64_t at = 0;
  std::exception_ptr error{};

  // As lseek does, within the file; −1 where that leads out.
  int64_t seek(int64_t offset, int whence) {
    const int64_t from = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? at : bytes;
    if (offset < -from || offset > bytes - from) return -1;
    return at = from + offset;
  }
  // How many bytes were read: fewer at the end, none after an error.
  int64_t read(void* to, int64_t count) {
    count = std::clamp<int64_t>(count, 0, bytes - at);
    try {
      source.read(at, {static_cast<uint8_t*>(to), static_cast<size_t>(count)});
    } catch (...) {
      if (!error) error = std::current_exception();
      return 0;
    }
    at += count;
    return count;
  }
  void rethrow() const {
    if (error) std::rethrow_exception(error);
  }
};

// An open file of audio.
class AudioDecoder {
 public:
  virtual ~AudioDecoder() = default;

  int64_t sample_rate = 0, channels = 0;
  int64_t frames = -1;  // that the file says it has; −1 where it does not

  // Fills `samples`, room for whole frames, with the next frames, a frame's channels side by side,
  // and returns how many; 0 at the end. Throws lace::Error naming the file if it is damaged, and
  // what the input's source throws.
  virtual int64_t read(std::span<float> samples) = 0;
};

// An MP3 file. `input` stays until the decoder goes.
std::unique_ptr<AudioDecoder> open_mp3(AudioInput& input, const std::string& shown);

// Where the last frame of an MP3 file ends by its own account; −1 if something else comes before.
int64_t end_of_mp3(const ByteSource& source, int64_t bytes);

inline bool begins(std::span<const uint8_t> bytes, std::string_view text) {
  return bytes.size() >= text.size() && std::memcmp(bytes.data(), text.data(), text.size()) == 0;
}

}  // namespace lace
