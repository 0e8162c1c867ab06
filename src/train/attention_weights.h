#pragma once

#include <cstdint>
#include <span>

#include "lace/pattern.h"

#include "core/executor.h"

namespace lace::train {

// One head of one sequence.
struct HeadRows {
  const float* q = nullptr;    // [n, head_dim]
  const float* k = nullptr;    // [n, head_dim]
  const float* lse = nullptr;  // [n], natural log, of the logits of a query's live keys
  int64_t n = 0, head_dim = 0;
  float scale = 1;
};

// The attention weight of a live pair is w_ij = exp(scale · q_i·k_j − lse_i); pairs that are not
// live are never looked at. The functions add weights to cells; a cell is NaN until there is a live
// pair in it.

// All pairs: w_ij to cell (⌊i · rows / n⌋, ⌊j · columns / n⌋) of cells [rows, columns]. The result
// does not depend on the threads. rows and columns are in [1, n]; the pattern is bound to n.
void add_weights(const HeadRows& head, const BoundPattern& pattern, int64_t head_number,
                 int64_t rows, int64_t columns, const Executor& executor, std::span<double> cells);

// One query's: w_ij to cells[j], of query + 1.
void add_query_weights(const HeadRows& head, const BoundPattern& pattern, int64_t head_number,
                       int64_t query, std::span<double> cells);

// The first of n queries that counts in row `row` of `rows`.
inline int64_t first_of_row(int64_t row, int64_t rows, int64_t n) {
  return (row * n + rows - 1) / rows;
}

}  // namespace lace::train
