// What benchmarks on GPUs share: times by events, ceilings.

#include "bench_cuda_time.h"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>
#include <ATen/cuda/Sleep.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "bench_rounds.h"
#include "kernels/cuda/timer.h"

namespace lace::cli {

namespace {

double median_ms(int rounds, const std::function<void()>& run) {
  for (int i = 0; i < 3; ++i) run();
  std::vector<double> samples;
  for (int i = 0; i < rounds; ++i) samples.push_back(sample_ms(run, 5));
  return median(samples);
}

double matmul_tflops(int rounds) {
  constexpr int64_t kSize = 8192;
  const at::Tensor a = at::randn({kSize, kSize}, at::device(at::kCUDA).dtype(at::kBFloat16));
  const at::Tensor b = at::randn_like(a);
  at::Tensor product = at::empty_like(a);
  return 2.0 * std::pow(double{kSize}, 3) / median_ms(rounds, [&] { at::mm_out(product, a, b); }) *
         1e-9;
}

}  // namespace

double sample_ms(const std::function<void()>& run, int calls) {
  const cuda::Timer timer(c10::cuda::getCurrentCUDAStream().stream());
  at::cuda::sleep(2'000'000);
  const float elapsed_ms = timer.ms([&] {
    for (int i = 0; i < calls; ++i) run();
  });
  return static_cast<double>(elapsed_ms) / calls;
}

int warm_up(const std::function<void()>& run) {
  for (int i = 0; i < 2; ++i) run();
  return std::clamp(static_cast<int>(4 / sample_ms(run, 2)), 1, 20);
}

double gpu_matmul_tflops(c10::Device device) {
  const c10::cuda::CUDAGuard guard(device);
  return matmul_tflops(9);
}

Ceilings measure_ceilings(int rounds) {
  constexpr int64_t kBytes = int64_t{1} << 31;
  Ceilings ceilings;
  ceilings.matmul_tflops = matmul_tflops(rounds);
  const at::Tensor source = at::zeros({kBytes}, at::device(at::kCUDA).dtype(at::kByte));
  const at::Tensor target = at::empty_like(source);
  ceilings.copy_tb_s =
      2.0 * double{kBytes} / median_ms(rounds, [&] { target.copy_(source); }) * 1e-9;
  return ceilings;
}

void time_on_gpu(c10::Device device, std::vector<GpuContender>& contenders, int rounds) {
  const c10::cuda::CUDAGuard guard(device);
  std::vector<int> calls;
  for (const GpuContender& contender : contenders) calls.push_back(warm_up(contender.run));
  for (int round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < contenders.size(); ++i) {
      contenders[i].samples_ms.push_back(sample_ms(contenders[i].run, calls[i]));
    }
  }
}

void release_gpu_memory() { c10::cuda::CUDACachingAllocator::emptyCache(); }

}  // namespace lace::cli
