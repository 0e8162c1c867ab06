#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "lace/data.h"

namespace lace {

// How much of a file's beginning is_audio looks at.
constexpr int64_t kAudioBeginning = 12;

// Whether a file begins as WAV (also RIFX and RF64), FLAC, Ogg or MP3 files do.
bool is_audio(std::span<const uint8_t> beginning);

// Decodes a file of `bytes` bytes by libsndfile, MP3 by libmpg123, chunk by chunk: the mean of its
// channels, resampled to `sample_rate` Hz by libsamplerate's best sinc filter, cut to [−1, 1], as
// µ-law codes (lace/audio.h), which `write` takes at most 64 Ki at a time. n frames at r Hz give
// n · sample_rate / r codes, to one.
// Throws lace::Error naming `shown`: it is no such file, or damaged; cut off, as far as its format
// tells (WAV, FLAC, MP3 with a Xing or Info header: where it ends early; other MP3: a last frame,
// Ogg: a last page that is not whole); no samples at all; a rate more than 256 times as high or low
// as `sample_rate`; a sample that is NaN or infinite. What `source` and `write` throw passes
// through.
void decode_audio(const ByteSource& source, int64_t bytes, const std::string& shown,
                  int64_t sample_rate,
                  const std::function<void(std::span<const uint8_t> codes)>& write);

}  // namespace lace
