#pragma once

#include <cstdint>
#include <random>

#include "lace/pattern.h"

namespace lace::testing {

// A random number in [from, to].
inline int64_t pick(std::mt19937_64& rng, int64_t from, int64_t to) {
  return from + static_cast<int64_t>(rng() % static_cast<uint64_t>(to - from + 1));
}

// A random atom with arguments that fit sequences of a few dozen positions.
inline Pattern random_atom(std::mt19937_64& rng) {
  const int64_t length = pick(rng, 1, 12), columns = pick(rng, 1, length);
  switch (pick(rng, 0, 9)) {
    case 0:
      return dense();
    case 1:
      return local(pick(rng, 1, 12), pick(rng, 1, 4));
    case 2:
      return block(length);
    case 3:
      return strided(length);
    case 4:
      return summary(length, columns, pick(rng, 0, length / columns - 1));
    case 5:
      return fixed(length, columns, pick(rng, 1, length / columns));
    case 6:
      return dilated(pick(rng, 1, 8), pick(rng, 1, 6));
    case 7:
      return pick(rng, 0, 1) ? global(pick(rng, 1, 4)) : global({{0, pick(rng, 0, 2)}, {-1, -1}});
    case 8:
      return sinks(pick(rng, 1, 4));
    default:
      return random(pick(rng, 1, 3), pick(rng, 1, 5), pick(rng, 0, 1000));
  }
}

// A random tree of | and & over atoms, at most `depth` levels of operations deep.
inline Pattern random_tree(std::mt19937_64& rng, int depth) {
  if (depth == 0 || pick(rng, 0, 2) == 0) return random_atom(rng);
  const Pattern a = random_tree(rng, depth - 1), b = random_tree(rng, depth - 1);
  return pick(rng, 0, 1) ? a | b : a & b;
}

// A random tree, or heads(…) of several, causal or not; binds to any multiple of 4 heads.
inline Pattern random_pattern(std::mt19937_64& rng, int depth) {
  const int64_t first = pick(rng, 0, 3);
  Pattern pattern =
      first == 0 ? random_tree(rng, depth)
                 : heads({{first, random_tree(rng, depth)}, {4 - first, random_tree(rng, depth)}});
  return pick(rng, 0, 1) ? pattern : bidirectional(pattern);
}

}  // namespace lace::testing
