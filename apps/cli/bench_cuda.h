#pragma once

#include <functional>
#include <string>
#include <vector>

#include <c10/core/Device.h>

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

// TFLOP/s of a bf16 matrix product of 8192 on a GPU: the median of nine samples of a few
// milliseconds. Throws as bench_attention_cuda.
double gpu_matmul_tflops(c10::Device device);

// What is timed on a GPU: `run` enqueues it on libtorch's current stream.
struct GpuContender {
  std::function<void()> run;
  std::vector<double> samples_ms;  // of one call of `run`
};

// After a warm-up of each, `rounds` samples of each in turn, of as many calls as fill 4 ms (at most
// 20). Throws as bench_attention_cuda.
void time_on_gpu(c10::Device device, std::vector<GpuContender>& contenders, int rounds);

// Gives back the memory that libtorch keeps on GPUs for later use. Throws as bench_attention_cuda.
void release_gpu_memory();

}  // namespace lace::cli
