#pragma once

#include <functional>
#include <vector>

#include <c10/core/Device.h>

namespace lace::cli {

// Times on GPUs. In a build without CUDA the functions throw lace::Error.

// Milliseconds of a call of `run`, which enqueues work on libtorch's current stream, by events:
// `calls` calls behind a wait of about a millisecond, in which the host gets ahead.
double sample_ms(const std::function<void()>& run, int calls);

// Calls `run` to warm up; how many calls fill a sample of 4 ms, at most 20.
int warm_up(const std::function<void()>& run);

// TFLOP/s of a bf16 matrix product of 8192 on a GPU: the median of nine samples of a few
// milliseconds.
double gpu_matmul_tflops(c10::Device device);

// What the current GPU can do: that product, and bytes read and written by a copy of 2 GiB; medians
// of `rounds` samples.
struct Ceilings {
  double matmul_tflops = 0, copy_tb_s = 0;
};
Ceilings measure_ceilings(int rounds);

// What is timed on a GPU: `run` enqueues it on libtorch's current stream.
struct GpuContender {
  std::function<void()> run;
  std::vector<double> samples_ms;  // of one call of `run`
};

// After a warm-up of each, `rounds` samples of each in turn.
void time_on_gpu(c10::Device device, std::vector<GpuContender>& contenders, int rounds);

// Gives back the memory that libtorch keeps on GPUs for later use.
void release_gpu_memory();

}  // namespace lace::cli
