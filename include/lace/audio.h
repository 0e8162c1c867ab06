#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lace/error.h"

namespace lace {

// 8-bit µ-law, µ = 255, continuous (not the segments of G.711), as WaveNet and torchaudio have it:
//   y(x) = sign(x) · ln(1 + 255 |x|) / ln 256,   code = ⌊(y + 1) / 2 · 255 + ½⌋,   x cut to [−1,
//   1].
// Silence is code 128, which decodes to 8.6e−5, as no code is 0 itself. NaN becomes 128.
uint8_t encode_mu_law(float x);

// The amplitude of a code: sign(y) · (256^|y| − 1) / 255 with y = 2 · code / 255 − 1, in [−1, 1].
float decode_mu_law(uint8_t code);

// The bytes of a WAV file, one channel of 16 bits a sample, of µ-law codes.
// Throws lace::Error if sample_rate is not in [1, 2^31), or the file would pass 4 GiB.
std::vector<uint8_t> wav_of_mu_law(std::span<const uint8_t> codes, int64_t sample_rate);

// Whether a file begins as WAV, FLAC, Ogg or MP3 files do.
bool is_audio_file(std::span<const uint8_t> file);

// The codes of such a file's sound: one channel, resampled, as docs/data.md tells of audio.
// Throws lace::Error naming `name` if it is damaged, cut off or none.
std::vector<uint8_t> mu_law_of_file(std::span<const uint8_t> file, const std::string& name,
                                    int64_t sample_rate);

// Writes them to a file. Throws lace::Error also if it cannot be written.
void write_wav(const std::string& path, std::span<const uint8_t> codes, int64_t sample_rate);

}  // namespace lace
