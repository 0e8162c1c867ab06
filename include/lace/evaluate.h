#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "lace/data.h"

namespace lace {

class SparseTransformer;  // lace/model.h
struct EvalConfig;        // lace/recipe.h

// A mean of measured values, and how far it may be off.
struct Estimate {
  double mean = 0;
  // Half the width of the 95% interval; nothing from a single value. The values count as draws that
  // are independent of each other: where they are windows of one text they are not, and the true
  // interval is wider.
  std::optional<double> half_width = {};
};

// What of a split is scored.
struct EvalExtent {
  int64_t most_windows = 0;  // at most so many, spread evenly over all that there are; 0: all
  int64_t record_bytes = 0;  // Dataset::record_bytes: windows are whole records; 0: there are none
};

// What one window adds.
struct WindowScore {
  int64_t begin = 0;  // its first byte in the split, scored or not
  int64_t piece = 0;  // that it lies in
  int64_t bytes = 0;  // of its end, that are scored
  double nats = 0;    // of these together
};

struct EvalResult {
  double bits_per_byte = 0;  // of all scored bytes
  // 95%: the windows' own bits a byte are the values, weighted by their bytes; with w_i bytes and
  // x_i bits a byte in window i of n, m = bits_per_byte,
  //   half_width = t · √(n / (n − 1) · Σ w_i² (x_i − m)²) / Σ w_i,
  // t the 97.5% quantile of Student's distribution with n − 1 degrees of freedom. What Estimate
  // says of independence holds.
  std::optional<double> half_width = {};
  int64_t bytes = 0;              // scored
  int64_t available_windows = 0;  // that a full evaluation scores
  std::vector<WindowScore> windows = {};
  double elapsed_s = 0;
};

// Bits a byte of the model on a split, as the paper's §7 (Table 3) measures them: in each piece
// windows of seq_len bytes advance by seq_len − min_context, and only the last seq_len −
// min_context bytes of each are scored, so with at least min_context bytes before them. A piece's
// last window ends with it and may be shorter; no window passes the end of a piece.
//   All windows: of a piece's first window all bytes are scored, so that each byte of the split
//     counts once, the first min_context of a piece with less before them.
//   extent.most_windows of more: a piece's first window is scored as the others are; the first
//     min_context bytes of a piece count nowhere, and pieces that have no more have no window.
//   Records: windows are the records, scored whole.
// Calls `on_window` after each batch with the windows done and those there are to do. Throws
// lace::Error if there are no bytes to score, min_context is not in [0, seq_len) or, of records,
// not 0, a record is not seq_len bytes, or the split is no whole number of them.
EvalResult evaluate(const SparseTransformer& model, const DataSplit& split,
                    const EvalConfig& config, const EvalExtent& extent = {},
                    const std::function<void(int64_t done, int64_t total)>& on_window = {});

// The scored windows of one piece.
struct PieceScore {
  int64_t piece = 0;
  int64_t bytes = 0, windows = 0;
  Estimate bits_per_byte;
};
std::vector<PieceScore> by_piece(const EvalResult& result);

// The paper's minimum contexts (Table 3: 6144, 9216, 10752, 11904, 12096, 12160 of 12288) for
// another length: seq_len − seq_len / d, d = 2, 4, 8, 32, 64, 96, rounded, each once, ascending.
// Together they score windows of 206 times the split's bytes.
std::vector<int64_t> sweep_contexts(int64_t seq_len);

// evaluate() for each of sweep_contexts().
struct SweepRow {
  int64_t min_context = 0;
  EvalResult result;
};
std::vector<SweepRow> sweep(const SparseTransformer& model, const DataSplit& split,
                            const EvalConfig& config, const EvalExtent& extent = {},
                            const std::function<void(int64_t done, int64_t total)>& on_window = {});

}  // namespace lace
