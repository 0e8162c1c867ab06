#pragma once

// What the tests of the GPU's elementwise functions share: they compare with plain loops in
// float64.

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cuda/cuda_machine.h"
#include "kernels/cuda/device_array.h"
#include "kernels/elementwise/cuda/cuda_elementwise.h"
#include "kernels/host.h"

namespace lace::test {

using Values = std::vector<double>;
using cuda::kElementwise;

class CudaElementwise : public testing::Test {
 protected:
  void SetUp() override {
    if (!no_gpu().empty()) GTEST_SKIP() << "no GPU: " << no_gpu();
    threads_ = make_thread_pool(1);
    machine_ = std::make_unique<CudaMachine>();
    context_ = machine_->context(*threads_);
  }
  const Context& context() const { return context_; }

  Values numbers(int64_t count, double center = 0, double spread = 1) {
    std::normal_distribution<double> normal(center, spread);
    Values values(static_cast<size_t>(count));
    for (double& value : values) value = normal(random_);
    return values;
  }
  std::vector<int64_t> indices(int64_t count, int64_t end) {
    std::uniform_int_distribution<int64_t> uniform(0, end - 1);
    std::vector<int64_t> values(static_cast<size_t>(count));
    for (int64_t& value : values) value = uniform(random_);
    return values;
  }

 private:
  std::mt19937_64 random_{20};
  std::unique_ptr<Executor> threads_;
  std::unique_ptr<CudaMachine> machine_;
  Context context_;
};

// The most that one rounding to `compute` changes a number by.
inline double rounding(DType compute, double value) {
  return compute == DType::kBFloat16 ? std::abs(value) * 0x1p-8
                                     : std::max(std::abs(value) * 0x1p-11, 0x1p-25);
}

// Of fp32 sums of terms that fp32 arithmetic made, relative to the sum of their magnitudes.
constexpr double kSumError = 0x1p-18;

// |got − want| <= allowed(i), none of them NaN.
template <typename Allowed>
void expect_near(const char* what, const Values& got, const Values& want, const Allowed& allowed) {
  ASSERT_EQ(got.size(), want.size()) << what;
  int wrong = 0;
  for (size_t i = 0; i < got.size() && wrong < 3; ++i) {
    const bool near = std::abs(got[i] - want[i]) <= allowed(i);
    EXPECT_TRUE(near) << what << "[" << i << "] is " << got[i] << ", not " << want[i] << " ± "
                      << allowed(i);
    wrong += !near;
  }
}

// Sums over rows: `sums` and `magnitudes` of the terms, on top of `before`.
struct Sums {
  Values sums, magnitudes;
  explicit Sums(int64_t columns)
      : sums(static_cast<size_t>(columns)), magnitudes(static_cast<size_t>(columns)) {}
  void add(int64_t column, double term, double error = 0) {
    sums[static_cast<size_t>(column)] += term;
    magnitudes[static_cast<size_t>(column)] += std::abs(term) + error / kSumError;
  }
  void expect(const char* what, const Values& got, const Values& before, bool add) const {
    Values want = sums;
    for (size_t c = 0; c < want.size(); ++c) want[c] += add ? before[c] : 0;
    expect_near(what, got, want,
                [&](size_t c) { return kSumError * (magnitudes[c] + std::abs(before[c])) + 1e-7; });
  }
};

// What `run` gives, which must be the same bit for bit a second time.
template <typename Run>
std::vector<Values> repeated(const Run& run) {
  std::vector<Values> first = run();
  EXPECT_TRUE(run() == first) << "a second call gives other bits";
  return first;
}

}  // namespace lace::test
