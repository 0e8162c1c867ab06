// The GPU's products with quick-GELU and its gradient, each way of them, against float64.

#include <algorithm>
#include <cmath>
#include <string>

#include "lace/error.h"

#include "kernels/elementwise_cuda.h"
#include "kernels/products/products.h"

namespace lace::test {
namespace {

struct GeluCase {
  int64_t rows, in, out;  // of the first product; the second, a gradient, goes from out to in
  DType compute;
};

std::vector<GeluCase> gelu_cases() {
  std::vector<GeluCase> cases;
  for (const auto& [rows, in, out] :
       std::vector<std::tuple<int64_t, int64_t, int64_t>>{{1, 8, 8},
                                                          {127, 64, 256},
                                                          {129, 200, 136},
                                                          {1000, 128, 512},
                                                          {300, 72, 2056},
                                                          {4099, 64, 128}}) {
    for (const DType compute : {DType::kBFloat16, DType::kFloat16}) {
      cases.push_back({rows, in, out, compute});
    }
  }
  return cases;
}

std::string name_of(const testing::TestParamInfo<GeluCase>& info) {
  const GeluCase& problem = info.param;
  return concat(problem.rows, "x", problem.in, "x", problem.out, "_", name(problem.compute));
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double gelu(double x) { return x * sigmoid(1.702 * x); }
double gelu_derivative(double x) {
  const double s = sigmoid(1.702 * x);
  return s * (1 + 1.702 * x * (1 - s));
}

// a [m, k] b [n, k]ᵀ, and the sums of its terms' magnitudes.
struct Product {
  Values values, magnitudes;
  Product(const Values& a, const Values& b, int64_t m, int64_t n, int64_t k) {
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0, magnitude = 0;
        const double *row = &a[static_cast<size_t>(i * k)],
                     *column = &b[static_cast<size_t>(j * k)];
        for (int64_t p = 0; p < k; ++p) {
          sum += row[p] * column[p];
          magnitude += std::abs(row[p] * column[p]);
        }
        values.push_back(sum);
        magnitudes.push_back(magnitude);
      }
    }
  }
};

Values transposed(const Values& a, int64_t rows, int64_t columns) {
  Values result(a.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      result[static_cast<size_t>(c * rows + r)] = a[static_cast<size_t>(r * columns + c)];
    }
  }
  return result;
}

const Products& table() { return *products(Device::kCuda); }

class CudaProducts : public CudaElementwise, public testing::WithParamInterface<GeluCase> {
 protected:
  int64_t rows() const { return GetParam().rows; }
  int64_t in() const { return GetParam().in; }
  int64_t out() const { return GetParam().out; }
  DType dtype() const { return GetParam().compute; }
  DeviceArray compute(const Values& values) const { return {dtype(), values}; }
  DeviceArray compute(int64_t count) const { return {dtype(), count}; }

  // All ways that there are here, and the choices among them: contexts that ask for deterministic
  // results, and that do not.
  template <typename Test>
  void each_way(const LinearShape& shape, const Test& test) {
    Context any = context();
    any.deterministic = false;
    for (const Context& context : {context(), any}) {
      SCOPED_TRACE(context.deterministic ? "deterministic" : "the fastest");
      test(context, kFastestWay);
    }
    for (int way = 0; way < static_cast<int>(table().gelu_ways.size()); ++way) {
      SCOPED_TRACE(table().gelu_ways[static_cast<size_t>(way)]);
      const std::string reason = table().no_gelu_way(way, shape);
      if (reason.empty()) {
        test(context(), way);
      } else {
        EXPECT_NE(reason.find("compute capability"), std::string::npos) << reason;
      }
    }
  }
};

TEST_P(CudaProducts, LinearGelu) {
  const DeviceArray x = compute(numbers(rows() * in()));
  const DeviceArray weight =
      compute(numbers(out() * in(), 0, 1 / std::sqrt(static_cast<double>(in()))));
  const DeviceArray bias = compute(numbers(out()));
  const Values biases = bias.values();
  const Product product(x.values(), weight.values(), rows(), out(), in());
  const LinearShape shape = {rows(), in(), out(), dtype()};
  each_way(shape, [&](const Context& context, int way) {
    for (const bool has_bias : {true, false}) {
      const auto got = repeated([&] {
        const DeviceArray u = compute(rows() * out()), y = compute(rows() * out());
        table().linear_gelu(context, {shape, x.data(), weight.data(),
                                      has_bias ? bias.data() : nullptr, u.data(), y.data(), way});
        return std::vector<Values>{u.values(), y.values()};
      });
      Values us = product.values, errors = product.magnitudes;
      for (size_t i = 0; has_bias && i < us.size(); ++i) {
        const double b = biases[i % static_cast<size_t>(out())];
        us[i] += b;
        errors[i] += std::abs(b);
      }
      expect_near("u", got[0], us,
                  [&](size_t i) { return rounding(dtype(), us[i]) + kSumError * errors[i]; });
      Values ys;
      for (const double u : got[0]) ys.push_back(gelu(u));
      expect_near("y", got[1], ys,
                  [&](size_t i) { return rounding(dtype(), ys[i]) + std::abs(ys[i]) * 0x1p-18; });
      // y is what a kernel of its own makes of u, bit for bit.
      const DeviceArray u = compute(got[0]), y = compute(rows() * out());
      kElementwise.gelu(context, {{rows(), out(), dtype()}, u.data(), y.data()});
      EXPECT_TRUE(y.values() == got[1]);
      const DeviceArray alone = compute(rows() * out());  // without u
      table().linear_gelu(context, {shape, x.data(), weight.data(),
                                    has_bias ? bias.data() : nullptr, nullptr, alone.data(), way});
      EXPECT_TRUE(alone.values() == got[1]);
    }
  });
}

TEST_P(CudaProducts, GradInputGelu) {
  const int64_t d = in(), ff = out();
  const LinearShape shape = {rows(), ff, d, dtype()};
  const DeviceArray dy = compute(numbers(rows() * d));
  const DeviceArray weight = compute(numbers(d * ff, 0, 1 / std::sqrt(static_cast<double>(d))));
  const DeviceArray u = compute(numbers(rows() * ff, 0, 2));
  const Values us = u.values();
  const Values before = DeviceArray(DType::kFloat32, numbers(ff)).values();
  const Product product(dy.values(), transposed(weight.values(), d, ff), rows(), ff, d);
  Values want = product.values, errors(want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    // Two steps round the product in between. Where the derivative is near 0 it is the difference
    // of numbers near 1.
    const double slope = gelu_derivative(us[i]);
    errors[i] = std::abs(slope) * (rounding(dtype(), want[i]) + kSumError * product.magnitudes[i]) +
                std::abs(want[i]) * 0x1p-20;
    want[i] *= slope;
  }
  each_way(shape, [&](const Context& context, int way) {
    for (const int mode : {0, 1, 2}) {  // no sums; sums; added
      SCOPED_TRACE(mode);
      const auto got = repeated([&] {
        const DeviceArray du = compute(rows() * ff), sum(DType::kFloat32, before);
        GradInputGeluArgs args{shape, dy.data(), weight.data(), u.data(), du.data(), {}, way};
        if (mode > 0) args.sum = {sum.data(), mode == 2};
        table().grad_input_gelu(context, args);
        return std::vector<Values>{du.values(), sum.values()};
      });
      expect_near("du", got[0], want,
                  [&](size_t i) { return rounding(dtype(), want[i]) + errors[i]; });
      if (mode == 0) {
        EXPECT_EQ(got[1], before);
        continue;
      }
      Sums sums(ff);
      for (size_t i = 0; i < want.size(); ++i) {
        sums.add(static_cast<int64_t>(i) % ff, want[i], errors[i]);
      }
      sums.expect("sum", got[1], before, mode == 2);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaProducts, testing::ValuesIn(gelu_cases()), name_of);

using CudaProductWays = CudaElementwise;

TEST_F(CudaProductWays, OnlyTheFirstTakesEveryShape) {
  for (int way = 0; way < static_cast<int>(table().gelu_ways.size()); ++way) {
    for (const LinearShape& shape : {LinearShape{5, 12, 8}, LinearShape{5, 8, 12}}) {
      EXPECT_EQ(table().no_gelu_way(way, shape).empty(), way == 0);
    }
  }
  const DeviceArray x(DType::kBFloat16, numbers(5 * 12)), weight(DType::kBFloat16, numbers(8 * 12));
  const DeviceArray u(DType::kBFloat16, 5 * 8), y(DType::kBFloat16, 5 * 8);
  LinearGeluArgs args{{5, 12, 8}, x.data(), weight.data(), nullptr, u.data(), y.data()};
  args.way = 1;
  EXPECT_THROW(table().linear_gelu(context(), args), Error);
  args.way = static_cast<int>(table().gelu_ways.size());
  EXPECT_THROW(table().linear_gelu(context(), args), Error);
}

// Where an array begins elsewhere than at a multiple of 16 bytes, the first way is taken.
TEST_F(CudaProductWays, ShiftedArrays) {
  constexpr int64_t kRows = 100, kIn = 64, kOut = 128;
  const Values xs = numbers(kRows * kIn), weights = numbers(kOut * kIn, 0, 0.1);
  Context any = context();
  any.deterministic = false;
  std::vector<Values> results;
  for (const bool shifted : {false, true}) {
    const DeviceArray x(DType::kBFloat16, xs, shifted), weight(DType::kBFloat16, weights, shifted);
    const DeviceArray u(DType::kBFloat16, kRows * kOut, shifted);
    const DeviceArray y(DType::kBFloat16, kRows * kOut, shifted);
    LinearGeluArgs args{{kRows, kIn, kOut}, x.data(), weight.data(), nullptr, u.data(), y.data()};
    table().linear_gelu(any, args);
    results.push_back(y.values());
    args.way = 1;
    if (shifted) {
      EXPECT_THROW(table().linear_gelu(any, args), Error);
    }
  }
  expect_near("y", results[1], results[0],
              [&](size_t i) { return 5 * rounding(DType::kBFloat16, results[0][i]) + 0x1p-8; });
}

}  // namespace
}  // namespace lace::test
