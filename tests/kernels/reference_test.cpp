// The reference kernel is what every other is compared with; here it is compared with what follows
// from the definition alone.
#include <cmath>

#include <gtest/gtest.h>

#include "kernels/problem.h"
#include "kernels/reference/element.h"

namespace lace::test {
namespace {

const Kernel& reference_kernel() { return find_kernel("reference"); }

TEST(Reference, EqualLogitsAverageTheLiveValues) {
  const Case shape{.pattern = "local(3) | sinks(1)",
                   .dtype = DType::kFloat64,
                   .heads = 2,
                   .kv_heads = 1,
                   .q_len = 6,
                   .k_len = 8,
                   .v_dim = 2};
  Problem problem(shape, 3);
  for (int64_t h = 0; h < 2; ++h) {
    for (int64_t r = 0; r < 6; ++r) {
      for (int64_t d = 0; d < 16; ++d) problem.q().set(0, h, r, d, 0);
    }
  }
  const Forward forward = problem.forward(reference_kernel(), SerialExecutor(1));
  size_t row = 0;
  for (int64_t h = 0; h < 2; ++h) {
    for (int64_t query = 2; query < 8; ++query, ++row) {
      double count = 0, sums[2] = {};
      for (int64_t key = 0; key <= query; ++key) {
        if (query - key >= 3 && key != 0) continue;
        count += 1;
        for (int64_t d = 0; d < 2; ++d) sums[d] += problem.v().get(0, 0, key, d);
      }
      EXPECT_NEAR(forward.lse[row], std::log(count), 1e-15);
      for (size_t d = 0; d < 2; ++d) {
        EXPECT_NEAR(forward.out[row * 2 + d], sums[d] / count, 1e-15);
      }
    }
  }
}

TEST(Reference, RowsWithoutKeysAreZero) {
  const Case shape{.pattern = "summary(4, 1)", .dtype = DType::kFloat64, .q_len = 9, .k_len = 9};
  const Problem problem(shape, 5);
  const Forward forward = problem.forward(reference_kernel(), SerialExecutor(1));
  const Backward backward = problem.backward(reference_kernel(), SerialExecutor(1), forward);
  for (size_t row = 0; row < 9; ++row) {
    const bool empty = row < 3;
    EXPECT_EQ(forward.lse[row] == -INFINITY, empty) << row;
    for (size_t d = 0; d < 16; ++d) {
      EXPECT_EQ(forward.out[row * 16 + d] == 0, empty) << row;
      // A query with one key has that key's weight fixed at 1.
      EXPECT_NEAR(backward.dq[row * 16 + d], 0, row < 7 ? 1e-15 : 10) << row;
    }
  }
}

TEST(Reference, LargeLogitsStayFinite) {
  const Case shape{.dtype = DType::kFloat64, .q_len = 20, .k_len = 20, .magnitude = 100};
  const Problem problem(shape, 6);
  const Forward forward = problem.forward(reference_kernel(), SerialExecutor(1));
  const Backward backward = problem.backward(reference_kernel(), SerialExecutor(1), forward);
  double largest = 0;
  for (const double lse : forward.lse) {
    ASSERT_TRUE(std::isfinite(lse));
    largest = std::max(largest, lse);
  }
  EXPECT_GT(largest, 1000);  // exp of it is not finite
  for (const auto* values : {&forward.out, &backward.dq, &backward.dk, &backward.dv}) {
    for (const double value : *values) ASSERT_TRUE(std::isfinite(value));
  }
}

double loss(const Problem& problem, const std::vector<double>& dout) {
  const Forward forward = problem.forward(reference_kernel(), SerialExecutor(1));
  double sum = 0;
  for (size_t i = 0; i < dout.size(); ++i) sum += forward.out[i] * dout[i];
  return sum;
}

// d loss / d each element of `tensor`, by central differences.
std::vector<double> differences(const Problem& problem, Tensor& tensor,
                                const std::vector<double>& dout) {
  constexpr double kStep = 1e-5;
  std::vector<double> all;
  for (int64_t b = 0; b < tensor.size(0); ++b) {
    for (int64_t h = 0; h < tensor.size(1); ++h) {
      for (int64_t r = 0; r < tensor.size(2); ++r) {
        for (int64_t d = 0; d < tensor.size(3); ++d) {
          const double value = tensor.get(b, h, r, d);
          tensor.set(b, h, r, d, value + kStep);
          const double above = loss(problem, dout);
          tensor.set(b, h, r, d, value - kStep);
          const double below = loss(problem, dout);
          tensor.set(b, h, r, d, value);
          all.push_back((above - below) / (2 * kStep));
        }
      }
    }
  }
  return all;
}

void expect_near(const std::vector<double>& got, const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-8) << i;
}

TEST(Reference, GradientsAgreeWithFiniteDifferences) {
  const std::pair<const char*, double> patterns[] = {{"dense", 0},
                                                     {"local(3) | strided(3)", 0},
                                                     {"summary(4, 1) | strided(5)", 0},
                                                     {"bidirectional(local(4))", 0},
                                                     {"heads(1*dense, 3*block(4))", 0},
                                                     {"local(3) | strided(3)", 0.8},
                                                     {"summary(4, 1) | strided(5)", 3}};
  for (const auto& [pattern, softcap] : patterns) {
    SCOPED_TRACE(pattern);
    const Case shape{.pattern = pattern,
                     .dtype = DType::kFloat64,
                     .batch = 2,
                     .heads = 4,
                     .kv_heads = 2,
                     .q_len = 7,
                     .k_len = 9,
                     .qk_dim = 3,
                     .v_dim = 2,
                     .softcap = softcap};
    Problem problem(shape, 11);
    const Forward forward = problem.forward(reference_kernel(), SerialExecutor(1));
    const Backward backward = problem.backward(reference_kernel(), SerialExecutor(1), forward);
    const std::vector<double> dout = problem.dout().values();
    expect_near(backward.dq, differences(problem, problem.q(), dout));
    expect_near(backward.dk, differences(problem, problem.k(), dout));
    expect_near(backward.dv, differences(problem, problem.v(), dout));
  }
}

TEST(Reference, SoftcapBendsLogits) {
  const Case shape{.pattern = "local(5)",
                   .dtype = DType::kFloat64,
                   .heads = 1,
                   .kv_heads = 1,
                   .q_len = 9,
                   .k_len = 9,
                   .qk_dim = 1,
                   .v_dim = 1,
                   .scale = 1.5,
                   .softcap = 0.7};
  Problem problem(shape, 12);
  const Forward forward = problem.forward(reference_kernel(), SerialExecutor(1));
  for (int64_t row = 0; row < 9; ++row) {
    double sum = 0, out = 0;
    for (int64_t key = std::max<int64_t>(0, row - 4); key <= row; ++key) {
      const double dot = problem.q().get(0, 0, row, 0) * problem.k().get(0, 0, key, 0);
      const double weight = std::exp(0.7 * std::tanh(1.5 * dot / 0.7));
      sum += weight;
      out += weight * problem.v().get(0, 0, key, 0);
    }
    EXPECT_NEAR(forward.lse[static_cast<size_t>(row)], std::log(sum), 1e-14);
    EXPECT_NEAR(forward.out[static_cast<size_t>(row)], out / sum, 1e-14);
  }
}

template <typename Element>
void expect_round_trip() {
  for (int bits = 0; bits < 0x10000; ++bits) {
    const auto code = static_cast<uint16_t>(bits);
    const double value = Element::load(code);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(Element::load(Element::store(value))));
    } else {
      ASSERT_EQ(Element::store(value), code);
    }
    // The middle between two neighbours goes to the even one.
    const double next = Element::load(static_cast<uint16_t>(bits + 1));
    if (bits < 0x7fff && std::isfinite(next)) {
      ASSERT_EQ(Element::store((value + next) / 2), code + (bits & 1)) << bits;
    }
  }
}

TEST(Reference, SixteenBitFormatsRoundToNearestEven) {
  expect_round_trip<reference::BFloat16>();
  expect_round_trip<reference::Float16>();
  EXPECT_EQ(reference::Float16::load(0x3c00), 1);
  EXPECT_EQ(reference::Float16::store(65520), 0x7c00);  // the first that rounds to infinity
  EXPECT_EQ(reference::Float16::store(65519), 0x7bff);
  EXPECT_EQ(reference::BFloat16::load(0x3f80), 1);
  EXPECT_EQ(reference::BFloat16::load(0x0001), 0x1p-133);
}

}  // namespace
}  // namespace lace::test
