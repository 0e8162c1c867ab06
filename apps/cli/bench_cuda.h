#pragma once

#include <string>
#include <vector>

namespace lace::cli {

struct CudaBenchOptions {
  std::vector<std::string> rows;  // texts; a row is taken whose name has one of them. None: all
  std::string direction;          // "forward", "forward+backward"; empty: both
  int rounds = 9;
  bool million = false;  // also the rows of 2²⁰ tokens, their memory measured
  bool no_peer = false;
  bool list = false;  // only print the names
  bool json = false;
};

// `lace bench attention --device cuda`: bfloat16 attention on the first GPU, lace beside cuDNN and
// FlashAttention-2 as libtorch has them, on the same inputs, in rounds of all in turn. A dense
// kernel runs a sparse head on a view that makes it dense without a copy, where there is one:
//   strided(l)  dense on [batch, n / l, l · heads, head_dim]
//   block(l)    dense on [batch · n / l, l, heads, head_dim]
// Tensors are stored [batch, n, heads, head_dim]. Throws lace::Error in a build without CUDA,
// and once all is printed if lace failed on a row.
void bench_attention_cuda(const CudaBenchOptions& options);

}  // namespace lace::cli
