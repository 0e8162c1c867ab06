#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lace/pattern.h"

namespace lace {

// A drawing as Figure 3 of the Sparse Transformer paper has it, as one self-contained SVG: for each
// head with a set of its own, of each pattern of a stack's cycle, the connectivity matrix (queries
// down, keys across), and above it, where the pattern has a stride, the keys of one query with the
// sequence folded into rows of that length. Parts of a union have colours of their own.
// Of a long sequence the matrix shows how densely each cell is live, and a second one its last rows
// of that length. At most 8 heads are drawn.
// Throws lace::Error as Pattern::bind does.
std::string explain_svg(const std::vector<Pattern>& cycle, int64_t heads, int64_t seq_len);

}  // namespace lace
