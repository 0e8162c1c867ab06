#pragma once

#include <string>

#include "lace/train.h"

namespace lace {

// A model of a few thousand parameters, and text with something to learn.
inline Recipe small_recipe() {
  Recipe recipe;
  recipe.name = "small";
  recipe.model.seq_len = 64;
  recipe.model.layers = 2;
  recipe.model.d_model = 32;
  recipe.model.heads = 2;
  recipe.model.patterns = {"fixed(8, 2, 2)"};
  recipe.train.batch = 2;
  recipe.train.accumulate = 2;
  recipe.train.steps = 6;
  recipe.train.validate_every = 0;
  recipe.optimizer.learning_rate = 3e-3;
  recipe.optimizer.warmup_steps = 2;
  return recipe;
}

inline ByteStream small_text(size_t bytes) {
  const std::string words[] = {"sparse ", "attention ", "reads ", "few ", "keys. "};
  std::string text;
  for (uint32_t state = 1; text.size() < bytes;) {
    state = state * 1664525u + 1013904223u;
    text += words[state >> 24 & 3] + words[4 - (state >> 28 & 1)];
  }
  return ByteStream(std::vector<uint8_t>(text.begin(), text.begin() + static_cast<long>(bytes)));
}

inline Dataset small_data() {
  Dataset data;
  data.train = small_text(3000);
  data.validation = small_text(400);
  data.test = small_text(500);
  return data;
}

}  // namespace lace
