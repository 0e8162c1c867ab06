#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace lace::report {

// A picture as a PNG: `pixels` holds height · width · channels bytes, the rows from the top,
// channels 1 (grey) or 3 (red, green, blue).
// Throws lace::Error if the sizes are not positive or do not fit the bytes.
std::string png(int64_t width, int64_t height, int64_t channels, std::string_view pixels);

// Sound of one channel and 8-bit µ-law codes (src/report/media.cpp has the formula) as a WAV file
// of 16-bit samples.
std::string wav(std::string_view codes, double sample_rate);

// The sample that a µ-law code stands for, in [−1, 1].
double mu_law_sample(uint8_t code);

// "data:image/png;base64,…"
std::string data_uri(std::string_view type, std::string_view bytes);

}  // namespace lace::report
