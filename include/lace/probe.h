#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "lace/evaluate.h"

namespace lace {

// What a model uses of its context.
//
// Copying: a window of seq_len bytes of filler ends with a random string of s bytes, and the same
// string is planted at depth d: its first byte is at d · (seq_len − 2s), so that 0 is the window's
// beginning and 1 right before the repeat. What the repeat costs then (`copied`) is compared with
// what the same bytes at the same place cost with another random string planted (`fresh`): the two
// windows differ in the planted bytes alone, so that a model that cannot see them shows no gain, to
// the bit.
struct ProbeOptions {
  std::vector<int64_t> lengths = {};  // s, bytes, each in [1, seq_len / 2]; none: probe_lengths()
  std::vector<double> depths = {0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1};
  int64_t trials = 8;    // windows of filler, with strings of their own, of each cell
  int64_t windows = 64;  // at most, that the loss by position is measured on; 0: it is not
  int64_t batch = 8;     // windows at a time
  uint64_t seed = 1;     // of the filler's places and the strings
  bool aligned = false;  // filler is whole records
};

// 8, 32 and 128, as far as four of them fit into seq_len; where none do, seq_len / 4, at least 1.
std::vector<int64_t> probe_lengths(int64_t seq_len);

// All in bits a byte of the repeat; means over the trials, and intervals over them.
struct CopyCell {
  int64_t length = 0;
  double depth = 0;
  int64_t distance = 0;  // from a planted byte to its repeat
  Estimate copied = {}, fresh = {};
  Estimate gain = {};  // fresh − copied, of each trial
};

// The loss of the bytes [begin, end) of a window, over windows of the filler; the interval's values
// are the windows.
struct PositionBin {
  int64_t begin = 0, end = 0;
  int64_t bytes = 0;  // scored
  Estimate bits_per_byte = {};
};

struct ProbeResult {
  int64_t seq_len = 0;
  bool random_filler = false;
  std::vector<int64_t> lengths = {};  // that were probed
  std::vector<double> depths = {};    // that were probed
  std::vector<CopyCell> cells = {};   // by length, then depth
  int64_t trials = 0;
  std::vector<PositionBin> positions =
      {};  // [0, 1), [1, 2), [2, 4), [4, 8), … ; none on random filler
  int64_t position_windows = 0;
  double elapsed_s = 0;
};

// `filler` is where windows of filler are drawn from, and each byte of a string from any place of
// it; where no piece of it is as long as seq_len, both are uniform symbols instead
// (`random_filler`).
// Costs 2 · lengths · depths · trials windows, and those of the loss by position; calls `on_window`
// after each batch. On a CPU, and on a GPU where the model is deterministic, the same arguments
// give the same figures. Throws lace::Error naming the option that is out of its range.
ProbeResult probe(const SparseTransformer& model, const DataSplit& filler,
                  const ProbeOptions& options,
                  const std::function<void(int64_t done, int64_t total)>& on_window = {});

}  // namespace lace
