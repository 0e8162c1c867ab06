#pragma once

#include <cstdint>
#include <vector>

#include "lace/pattern.h"

namespace lace::pattern {

// Which keys a decoder must keep: those that some later query may attend to. Made from a pattern's
// expression, so it may name more keys than are needed, and never fewer.
struct Retained {
  // Keys j with first <= j mod length < first + width, however far back.
  struct Columns {
    int64_t length = 0, first = 0, width = 0;
    bool operator==(const Columns&) const = default;
  };

  bool all = false;
  int64_t window = 0;              // the last so many keys, the query's own included
  std::vector<Columns> columns;    // none twice
  std::vector<TokenRange> tokens;  // ascending, disjoint
  bool operator==(const Retained&) const = default;

  // How many keys of the first `keys` it names at most.
  int64_t rows(int64_t keys) const;
};

// Of one head: later queries are those after a key, up to the pattern's length.
//   dense, strided, random, mask: all      local, block, dilated: a window
//   summary: its columns                   sinks, global: their tokens
// A union keeps what either operand needs, an intersection what that operand needs which names
// fewest.
Retained retained(const BoundPattern& pattern, int64_t head);

// What either names.
Retained join(Retained a, const Retained& b);

}  // namespace lace::pattern
