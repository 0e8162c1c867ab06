#include "bench_peak.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "bench_cuda_time.h"
#include "core/instruction_set.h"
#include "ops/torch_context.h"

// Every loop keeps more independent sums than latency × issue width of today's processors (8 to
// 16), within the registers of its instruction set.

namespace lace::cli {

namespace {

std::atomic<float> sink{0};  // keeps the results alive

constexpr int kScalarSums = 8;

double scalar_fma(int64_t steps) {
  float sums[kScalarSums] = {};
  const float a = sink.load() + 1e-9f, b = sink.load() + 0.5f;
  for (int64_t step = 0; step < steps; ++step) {
    for (float& sum : sums) sum = sum * a + b;
  }
  float total = 0;
  for (const float sum : sums) total += sum;
  sink = total * 0;
  return 2.0 * kScalarSums * static_cast<double>(steps);
}

#if defined(__x86_64__)

constexpr int kAvx2Sums = 12;

__attribute__((target("avx2,fma"))) double avx2_fma(int64_t steps) {
  __m256 sums[kAvx2Sums];
  for (__m256& sum : sums) sum = _mm256_setzero_ps();
  const __m256 a = _mm256_set1_ps(sink.load() + 1e-9f), b = _mm256_set1_ps(sink.load() + 0.5f);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 12
    for (int i = 0; i < kAvx2Sums; ++i) sums[i] = _mm256_fmadd_ps(a, b, sums[i]);
  }
  __m256 total = _mm256_setzero_ps();
  for (int i = 0; i < kAvx2Sums; ++i) total = _mm256_add_ps(total, sums[i]);
  sink = _mm256_cvtss_f32(total) * 0;
  return 2.0 * 8 * kAvx2Sums * static_cast<double>(steps);
}

constexpr int kAvx512Sums = 24;

__attribute__((target("avx512f"))) double avx512_fma(int64_t steps) {
  __m512 sums[kAvx512Sums];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  const __m512 a = _mm512_set1_ps(sink.load() + 1e-9f), b = _mm512_set1_ps(sink.load() + 0.5f);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 24
    for (int i = 0; i < kAvx512Sums; ++i) sums[i] = _mm512_fmadd_ps(a, b, sums[i]);
  }
  __m512 total = _mm512_setzero_ps();
  for (int i = 0; i < kAvx512Sums; ++i) total = _mm512_add_ps(total, sums[i]);
  sink = _mm512_cvtss_f32(total) * 0;
  return 2.0 * 16 * kAvx512Sums * static_cast<double>(steps);
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))) double avx512_dot(int64_t steps) {
  __m512 sums[kAvx512Sums];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  const __m512 a_values = _mm512_set1_ps(sink.load() + 1e-9f);
  const __m512 b_values = _mm512_set1_ps(sink.load() + 0.5f);
  const __m512bh a = _mm512_cvtne2ps_pbh(a_values, a_values);
  const __m512bh b = _mm512_cvtne2ps_pbh(b_values, b_values);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 24
    for (int i = 0; i < kAvx512Sums; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], a, b);
  }
  __m512 total = _mm512_setzero_ps();
  for (int i = 0; i < kAvx512Sums; ++i) total = _mm512_add_ps(total, sums[i]);
  sink = _mm512_cvtss_f32(total) * 0;
  return 2.0 * 32 * kAvx512Sums * static_cast<double>(steps);
}

#endif

using Loop = double (*)(int64_t steps);

Loop loop_of(Peak peak) {
#if defined(__x86_64__)
  if (peak == Peak::kBf16Dot) return lacks_avx512_bf16().empty() ? avx512_dot : nullptr;
  if (lacks(InstructionSet::kAvx512).empty()) return avx512_fma;
  if (lacks(InstructionSet::kAvx2).empty()) return avx2_fma;
#endif
  return peak == Peak::kFp32Fma ? scalar_fma : nullptr;
}

}  // namespace

bool has_peak(Peak peak) { return loop_of(peak) != nullptr; }

double run_peak(Peak peak, const Executor& executor, int64_t steps) {
  const Loop loop = loop_of(peak);
  std::atomic<int> threads{0};
  double operations = 0;
  executor.run([&](int thread) {
    const double own = loop(steps);
    ++threads;
    if (thread == 0) operations = own;
  });
  return operations * threads;
}

double measured_peak(c10::Device device, Precision precision) {
  if (precision == Precision::kFloat64) return 0;
  if (!device.is_cpu()) {
    const double peak = 1e12 * gpu_matmul_tflops(device);
    release_gpu_memory();
    return peak;
  }
  const bool narrow = precision != Precision::kFloat32 && has_peak(Peak::kBf16Dot);
  constexpr int kSamples = 5;
  constexpr int64_t kSteps = 500'000;
  double best = 0;
  for (int i = 0; i < kSamples; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const double operations =
        run_peak(narrow ? Peak::kBf16Dot : Peak::kFp32Fma, ops::torch_executor(), kSteps);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best = std::max(best, operations / elapsed.count());
  }
  return best;
}

}  // namespace lace::cli
