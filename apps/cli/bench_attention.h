#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "bench_rounds.h"
#include "core/dtype.h"

namespace lace::cli {

enum class Direction { kForward, kForwardBackward };

// "forward", "forward+backward"
std::string name(Direction direction);

// (query, key) pairs of the pattern, as many keys as queries, summed over the heads.
double live_pairs(const std::string& pattern, int64_t heads, int64_t seq_len);

// Operations of one attention, batch 1, counted on live pairs: 4 · head_dim a pair forward, 3.5
// times that with backward.
double live_operations(const std::string& pattern, int64_t heads, int64_t seq_len, int64_t head_dim,
                       Direction direction);

// What is timed: batch 1, q_len = k_len = seq_len, as many key heads as query heads.
struct AttentionCase {
  std::string name;
  std::string pattern;
  DType dtype = DType::kFloat32;
  int64_t seq_len = 0;
  int64_t heads = 8;
  int64_t head_dim = 64;
  Direction direction = Direction::kForward;
  bool peer = true;         // time libtorch's dense causal attention beside it
  bool memory_row = false;  // one run, its memory measured
};

// The rows of the benchmark: dense, fixed, strided; the last, of a million tokens, is a memory row.
std::vector<AttentionCase> attention_table();

struct AttentionResult {
  AttentionCase attention_case;
  std::string kernel;
  double time_ms = 0;
  double spread_ms = 0;
  double gflops_live = 0;              // live_operations() over the time
  std::optional<double> peak_gflops;   // of the dtype's instructions, in the same rounds
  std::optional<double> peer_ms;       // libtorch, dense causal
  std::optional<double> dense_gflops;  // of lace's own dense causal attention, in the same rounds
  std::optional<double> extra_memory_mb;  // memory rows: beyond inputs and results, 10⁶ bytes
  RoundsReport rounds;
};

using BenchProgress =
    std::function<void(int64_t done, int64_t total, const std::string& contender)>;

// Times lace, libtorch's scaled_dot_product_attention, lace's own dense attention where the
// pattern is not dense, and the peak of the dtype, in rounds of all in turn.
AttentionResult bench_attention(const AttentionCase& attention_case, int rounds,
                                const BenchProgress& progress);

}  // namespace lace::cli
