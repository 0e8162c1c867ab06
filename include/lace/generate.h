#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "lace/model.h"

namespace lace {

struct SampleOptions {
  int64_t length = 256;    // bytes to draw
  double temperature = 1;  // logits are divided by it; 0: always the likeliest
  int64_t top_k = 0;       // draw among the k likeliest; 0: all
  double top_p = 1;        // draw among the fewest likeliest that reach this probability together
  uint64_t seed = 1;
};

// Draws bytes that follow `prompt` from the model, one at a time, through its key/value cache.
// At seq_len bytes the model's positions end, and decoding slides: it starts anew behind the last
// seq_len / 2 bytes.
// Byte i depends on the seed, i and the model's probabilities only. `on_byte`, where given, sees
// each byte as it is drawn; returning false ends the sample early.
// Throws lace::Error `[sample] …` on options out of range, or if the model's vocabulary is not 256.
std::vector<uint8_t> sample(const SparseTransformer& model, std::span<const uint8_t> prompt,
                            const SampleOptions& options,
                            const std::function<bool(uint8_t)>& on_byte = {});

// The same `count` times together: what each draws has a seed of its own, made from options.seed
// and its number; number 0 draws what sample() does. `on_bytes` sees one byte of each, in their
// order.
// Throws lace::Error also if count is less than 1.
std::vector<std::vector<uint8_t>> sample_together(
    const SparseTransformer& model, std::span<const uint8_t> prompt, const SampleOptions& options,
    int64_t count, const std::function<bool(std::span<const uint8_t>)>& on_bytes = {});

}  // namespace lace
