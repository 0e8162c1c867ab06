#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lace::cli {

// What a dense kernel can do with a row.
enum class DenseView {
  kNone,
  kWhole,     // the row is dense
  kResidues,  // dense on the view of residue classes mod `period`
  kBlocks,    // dense on the view of blocks of `period`
  kWindow,    // causal window of `period` keys
};

// A row: one layer's attention in bfloat16, as many queries as keys.
struct CudaCase {
  std::string name, pattern;
  int64_t batch = 1, seq_len = 0, heads = 0, kv_heads = 0, head_dim = 64;
  DenseView view = DenseView::kNone;
  int64_t period = 0;
  bool memory_row = false;  // of a million tokens: lace alone, its memory measured
};

// A: the paper's Enwik8 layer. B: the same at 65,536 tokens. C: a window of 4096 with grouped
// heads. D: encoders. Last, two memory rows.
std::vector<CudaCase> cuda_cases();

}  // namespace lace::cli
