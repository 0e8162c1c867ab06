// The GPU's functions of rows of elements.
#include "kernels/elementwise_cuda.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>

#include "lace/error.h"

namespace lace::test {
namespace {

struct ElementsCase {
  int64_t rows, columns;
  DType compute, residual;
  bool shifted;  // arrays do not begin at multiples of 16 bytes
};

std::vector<ElementsCase> elements_cases() {
  std::vector<ElementsCase> cases;
  for (const auto& [rows, columns] : std::vector<std::pair<int64_t, int64_t>>{{1, 1},
                                                                              {5000, 7},
                                                                              {37, 100},
                                                                              {1000, 250},
                                                                              {333, 257},
                                                                              {61, 256},
                                                                              {5000, 256},
                                                                              {2500, 512},
                                                                              {129, 768},
                                                                              {50, 1024},
                                                                              {700, 2048},
                                                                              {9, 4096},
                                                                              {65, 5000},
                                                                              {3, 12}}) {
    for (const DType compute : {DType::kBFloat16, DType::kFloat16}) {
      cases.push_back({rows, columns, compute, DType::kFloat32, false});
      if (rows * columns > 3000) cases.push_back({rows, columns, compute, compute, false});
    }
  }
  for (const DType residual : {DType::kFloat32, DType::kBFloat16}) {
    cases.push_back({300, 512, DType::kBFloat16, residual, true});
  }
  return cases;
}

class CudaElements : public CudaElementwise, public testing::WithParamInterface<ElementsCase> {
 protected:
  Elements elements() const { return {GetParam().rows, GetParam().columns, GetParam().compute}; }
  int64_t rows() const { return GetParam().rows; }
  int64_t columns() const { return GetParam().columns; }
  int64_t count() const { return rows() * columns(); }
  DeviceArray compute(const Values& values) const {
    return {GetParam().compute, values, GetParam().shifted};
  }
  DeviceArray compute(int64_t count) const {
    return {GetParam().compute, count, GetParam().shifted};
  }
  DeviceArray wide(const Values& values) const {
    return {DType::kFloat32, values, GetParam().shifted};
  }
  DeviceArray wide(int64_t count) const { return {DType::kFloat32, count, GetParam().shifted}; }
  DeviceArray residual(const Values& values) const {
    return {GetParam().residual, values, GetParam().shifted};
  }
  DeviceArray residual(int64_t count) const {
    return {GetParam().residual, count, GetParam().shifted};
  }
  // Of one rounding of the residual stream.
  double residual_rounding(double value) const {
    return GetParam().residual == DType::kFloat32 ? 0 : rounding(GetParam().residual, value);
  }
};

std::string name_of(const testing::TestParamInfo<ElementsCase>& info) {
  const ElementsCase& problem = info.param;
  return concat(problem.rows, "x", problem.columns, "_", name(problem.compute),
                problem.residual == DType::kFloat32 ? "" : "_residual",
                problem.shifted ? "_shifted" : "");
}

// One key, and what dropout_row_key and dropout_hash make of it.
struct Mask {
  uint64_t key = 0x1234567890abcdef;
  Workspace on_device = to_device(&key, sizeof(key));
  Dropout dropout;
  explicit Mask(bool on) {
    if (on) {
      dropout = {reinterpret_cast<const uint64_t*>(on_device.get()),
                 static_cast<uint32_t>(0.2 * 0x1p32), 1.25f};
    }
  }
  double operator()(double value, int64_t row, int64_t column) const {
    if (dropout.threshold == 0) return value;
    const uint32_t hash =
        dropout_hash<uint32_t>(dropout_row_key(key, row), static_cast<uint32_t>(column));
    return hash >= dropout.threshold ? value * dropout.scale : 0;
  }
};

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

TEST_P(CudaElements, Norm) {
  const DeviceArray x = residual(numbers(count(), 0.5, 2)), branch = compute(numbers(count()));
  const DeviceArray weight = wide(numbers(columns(), 1, 0.2)), bias = wide(numbers(columns()));
  const Values xs = x.values(), branches = branch.values();
  const Values weights = weight.values(), biases = bias.values();
  constexpr double kEps = 1e-5;
  for (const int mode : {0, 1, 2, 3}) {  // no branch; branch; with dropout; the sum alone
    SCOPED_TRACE(mode);
    const Mask mask(mode >= 2);
    const auto got = repeated([&] {
      const DeviceArray sum = residual(count()), y = compute(count());
      const DeviceArray mean = wide(rows()), rstd = wide(rows());
      NormArgs args{.elements = elements(),
                    .residual = GetParam().residual,
                    .x = x.data(),
                    .dropout = mask.dropout};
      if (mode > 0) args.branch = branch.data(), args.sum = sum.data();
      if (mode < 3) {
        args.weight = weight.data(), args.bias = bias.data(), args.eps = kEps;
        args.y = y.data(), args.mean = mean.data(), args.rstd = rstd.data();
      }
      kElementwise.norm(context(), args);
      std::vector<Values> results;
      if (mode > 0) results.push_back(sum.values());
      if (mode < 3) {
        results.insert(results.end(), {y.values(), mean.values(), rstd.values()});
      }
      return results;
    });
    Values sums = xs, ys(xs.size()), means, rstds;
    Values y_errors(xs.size());
    size_t next = 0;
    if (mode > 0) {
      for (int64_t i = 0; i < count(); ++i) {
        const auto at = static_cast<size_t>(i);
        sums[at] += mask(branches[at], i / columns(), i % columns());
      }
      expect_near("sum", got[next], sums, [&](size_t i) {
        return 0x1p-22 * (std::abs(sums[i]) + std::abs(xs[i])) + 1e-7 +
               1.01 * residual_rounding(sums[i]);
      });
      if (GetParam().residual != DType::kFloat32) sums = got[next];  // y is made of
      ++next;
    }
    for (int64_t r = 0; r < rows(); ++r) {
      const auto at = [&](int64_t c) { return static_cast<size_t>(r * columns() + c); };
      double mean = 0, variance = 0, most = 0;
      for (int64_t c = 0; c < columns(); ++c) {
        mean += sums[at(c)] / static_cast<double>(columns());
        most = std::max(most, std::abs(sums[at(c)]));
      }
      for (int64_t c = 0; c < columns(); ++c) {
        variance += (sums[at(c)] - mean) * (sums[at(c)] - mean) / static_cast<double>(columns());
      }
      means.push_back(mean);
      rstds.push_back(1 / std::sqrt(variance + kEps));
      for (int64_t c = 0; c < columns(); ++c) {
        const auto k = static_cast<size_t>(c);
        const double unit = (sums[at(c)] - mean) * rstds.back();
        ys[at(c)] = unit * weights[k] + biases[k];
        y_errors[at(c)] = rounding(GetParam().compute, ys[at(c)]) +
                          kSumError * std::abs(weights[k]) * (std::abs(unit) + most * rstds.back());
      }
    }
    if (mode == 3) continue;
    expect_near("y", got[next++], ys, [&](size_t i) { return y_errors[i]; });
    expect_near("mean", got[next++], means, [](size_t) { return 2e-5; });
    expect_near("rstd", got[next], rstds, [&](size_t r) { return rstds[r] * 2e-5; });
  }
}

TEST_P(CudaElements, NormGrad) {
  const DeviceArray dy = compute(numbers(count())), x = residual(numbers(count(), 0.5, 2));
  const DeviceArray mean = wide(numbers(rows(), 0.5, 0.1));
  const DeviceArray rstd = wide(numbers(rows(), 0.5, 0.02));
  const DeviceArray weight = wide(numbers(columns(), 1, 0.2));
  const DeviceArray grad = residual(numbers(count()));
  const Values dys = dy.values(), xs = x.values(), means = mean.values(), rstds = rstd.values();
  const Values weights = weight.values(), grads = grad.values();
  const Values before = wide(numbers(3 * columns())).values();
  const auto quantity = [&](int q) {
    const auto begin = before.begin() + q * columns();
    return Values(begin, begin + columns());
  };
  for (const int mode : {0, 1, 2, 3}) {  // dx alone; sums too; added, with dropout; dx is grad
    SCOPED_TRACE(mode);
    const Mask mask(mode >= 2);
    const bool adds = mode >= 2, has_grad = mode >= 2;
    const auto got = repeated([&] {
      const DeviceArray own_grad = residual(grads), fresh = residual(count());
      const DeviceArray dbranch = compute(count());
      const DeviceArray& dx = mode == 3 ? own_grad : fresh;
      const DeviceArray sums[3] = {wide(quantity(0)), wide(quantity(1)), wide(quantity(2))};
      NormGradArgs args{.elements = elements(),
                        .residual = GetParam().residual,
                        .dy = dy.data(),
                        .x = x.data(),
                        .mean = mean.data(),
                        .rstd = rstd.data(),
                        .weight = weight.data(),
                        .grad = has_grad ? own_grad.data() : nullptr,
                        .dx = dx.data(),
                        .dropout = mask.dropout,
                        .weight_sum = {},
                        .bias_sum = {},
                        .branch_sum = {}};
      if (mode > 0) {
        args.dbranch = dbranch.data();
        args.weight_sum = {sums[0].data(), adds};
        args.bias_sum = {sums[1].data(), adds};
        if (mode > 1) args.branch_sum = {sums[2].data(), adds};
      }
      kElementwise.norm_grad(context(), args);
      std::vector<Values> results = {dx.values()};
      if (mode > 0) {
        results.insert(results.end(),
                       {dbranch.values(), sums[0].values(), sums[1].values(), sums[2].values()});
      }
      return results;
    });
    Values dxs(xs.size()), dbranches(xs.size()), dx_errors(xs.size());
    Sums of_weight(columns()), of_bias(columns()), of_branch(columns());
    for (int64_t r = 0; r < rows(); ++r) {
      const auto row = static_cast<size_t>(r);
      const auto at = [&](int64_t c) { return static_cast<size_t>(r * columns() + c); };
      const auto unit = [&](int64_t c) { return (xs[at(c)] - means[row]) * rstds[row]; };
      double of_one = 0, of_x = 0, most = 0;
      for (int64_t c = 0; c < columns(); ++c) {
        const double wd = weights[static_cast<size_t>(c)] * dys[at(c)];
        of_one += wd / static_cast<double>(columns());
        of_x += wd * unit(c) / static_cast<double>(columns());
        most = std::max(most, std::abs(wd) * (1 + std::abs(unit(c))));
      }
      for (int64_t c = 0; c < columns(); ++c) {
        const double wd = weights[static_cast<size_t>(c)] * dys[at(c)];
        const double grad_here = has_grad ? grads[at(c)] : 0;
        dxs[at(c)] = grad_here + rstds[row] * (wd - of_one - unit(c) * of_x);
        dx_errors[at(c)] = 0x1p-20 * (std::abs(grad_here) + most * (1 + std::abs(unit(c))));
        of_weight.add(c, dys[at(c)] * unit(c));
        of_bias.add(c, dys[at(c)]);
        if (GetParam().residual == DType::kFloat32) {
          dbranches[at(c)] = mask(dxs[at(c)], r, c);
          of_branch.add(c, dbranches[at(c)], dx_errors[at(c)]);
        } else {  // of dx as it is rounded
          dbranches[at(c)] = mask(got[0][at(c)], r, c);
          of_branch.add(c, dbranches[at(c)]);
        }
      }
    }
    expect_near("dx", got[0], dxs,
                [&](size_t i) { return dx_errors[i] + 1.01 * residual_rounding(dxs[i]); });
    if (mode == 0) continue;
    expect_near("dbranch", got[1], dbranches, [&](size_t i) {
      return rounding(GetParam().compute, dbranches[i]) + 1.3 * dx_errors[i];
    });
    of_weight.expect("weight_sum", got[2], quantity(0), adds);
    of_bias.expect("bias_sum", got[3], quantity(1), adds);
    if (mode > 1) {
      of_branch.expect("branch_sum", got[4], quantity(2), adds);
    } else {
      EXPECT_TRUE(got[4] == quantity(2)) << "sums that are not wanted were written";
    }
  }
}

TEST_P(CudaElements, Gelu) {
  const DeviceArray x = compute(numbers(count(), 0, 3)), dy = compute(numbers(count()));
  const Values xs = x.values(), dys = dy.values();
  const Values before = wide(numbers(columns())).values();
  Values ys, dxs;
  for (size_t i = 0; i < xs.size(); ++i) {
    const double s = sigmoid(1.702 * xs[i]);
    ys.push_back(xs[i] * s);
    dxs.push_back(dys[i] * s * (1 + 1.702 * xs[i] * (1 - s)));
  }
  const auto got = repeated([&] {
    const DeviceArray y = compute(count());
    kElementwise.gelu(context(), {elements(), x.data(), y.data()});
    return std::vector<Values>{y.values()};
  });
  const auto error = [&](double value) {
    return rounding(GetParam().compute, value) + std::abs(value) * 0x1p-18;
  };
  expect_near("y", got[0], ys, [&](size_t i) { return error(ys[i]); });
  for (const int mode : {0, 1, 2}) {  // no sums; sums; added, dx is dy
    SCOPED_TRACE(mode);
    const auto grads = repeated([&] {
      const DeviceArray own_dy = compute(dys), fresh = compute(count()), sum = wide(before);
      const DeviceArray& dx = mode == 2 ? own_dy : fresh;
      GeluGradArgs args{elements(), own_dy.data(), x.data(), dx.data(), {}};
      if (mode > 0) args.sum = {sum.data(), mode == 2};
      kElementwise.gelu_grad(context(), args);
      return std::vector<Values>{dx.values(), sum.values()};
    });
    // Where the derivative is near 0 it is the difference of numbers near 1.
    expect_near("dx", grads[0], dxs,
                [&](size_t i) { return error(dxs[i]) + std::abs(dys[i]) * 0x1p-20; });
    if (mode == 0) continue;
    Sums sums(columns());
    for (size_t i = 0; i < dxs.size(); ++i) {
      sums.add(static_cast<int64_t>(i) % columns(), dxs[i], std::abs(dys[i]) * 0x1p-20);
    }
    sums.expect("sum", grads[1], before, mode == 2);
  }
}

TEST_P(CudaElements, ColumnSum) {
  const DeviceArray x = compute(numbers(count()));
  const Values xs = x.values(), before = wide(numbers(columns())).values();
  Sums sums(columns());
  for (size_t i = 0; i < xs.size(); ++i) sums.add(static_cast<int64_t>(i) % columns(), xs[i]);
  for (const bool add : {false, true}) {
    const auto got = repeated([&] {
      const DeviceArray sum = wide(before);
      kElementwise.column_sum(context(), {elements(), x.data(), {sum.data(), add}});
      return std::vector<Values>{sum.values()};
    });
    sums.expect("sum", got[0], before, add);
  }
}

TEST_P(CudaElements, CrossEntropy) {
  const DeviceArray logits = compute(numbers(count(), 0, 5));
  const Values ls = logits.values();
  const std::vector<int64_t> targets = indices(rows(), columns());
  const Workspace on_device = to_device(targets);
  const auto* of_rows = reinterpret_cast<const int64_t*>(on_device.get());
  Values lses, nats;
  for (int64_t r = 0; r < rows(); ++r) {
    const auto begin = ls.begin() + r * columns();
    const double most = *std::max_element(begin, begin + columns());
    double sum = 0;
    for (int64_t c = 0; c < columns(); ++c) sum += std::exp(begin[c] - most);
    lses.push_back(most + std::log(sum));
    nats.push_back(lses.back() - begin[targets[static_cast<size_t>(r)]]);
  }
  const auto got = repeated([&] {
    const DeviceArray nat = wide(rows()), lse = wide(rows());
    kElementwise.cross_entropy(context(),
                               {elements(), logits.data(), of_rows, nat.data(), lse.data()});
    return std::vector<Values>{nat.values(), lse.values()};
  });
  expect_near("nats", got[0], nats, [](size_t) { return 1e-5; });
  expect_near("lse", got[1], lses, [](size_t) { return 1e-5; });
  const DeviceArray lse = wide(lses);
  const Values rounded = lse.values();
  const Workspace factor = to_device(Values{3});
  for (const bool has_factor : {false, true}) {
    const double scale = has_factor ? 6 : 2;
    Values want;
    for (int64_t r = 0; r < rows(); ++r) {
      for (int64_t c = 0; c < columns(); ++c) {
        const double p =
            std::exp(ls[static_cast<size_t>(r * columns() + c)] - rounded[static_cast<size_t>(r)]);
        want.push_back(scale * (p - (targets[static_cast<size_t>(r)] == c ? 1 : 0)));
      }
    }
    const auto grads = repeated([&] {
      const DeviceArray own = compute(ls), fresh = compute(count());
      const DeviceArray& to = has_factor ? own : fresh;
      kElementwise.cross_entropy_grad(
          context(),
          {elements(), own.data(), of_rows, lse.data(), 2,
           has_factor ? reinterpret_cast<const double*>(factor.get()) : nullptr, to.data()});
      return std::vector<Values>{to.values()};
    });
    expect_near("dlogits", grads[0], want,
                [&](size_t i) { return rounding(GetParam().compute, want[i]) + scale * 0x1p-18; });
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaElements, testing::ValuesIn(elements_cases()), name_of);

struct RotateCase {
  int64_t rows, n, first_position, heads, head_dim, others;  // `others`: columns behind the heads
  bool shifted;
};

using RotateParam = std::tuple<RotateCase, DType>;

std::string rotate_name(const testing::TestParamInfo<RotateParam>& info) {
  const RotateCase& problem = std::get<0>(info.param);
  return concat(problem.rows, "_rows_", problem.heads, "x", problem.head_dim, "_and_",
                problem.others, "_", name(std::get<1>(info.param)),
                problem.shifted ? "_shifted" : "");
}

class CudaRotate : public CudaElementwise, public testing::WithParamInterface<RotateParam> {};

// Pairs (c, c + head_dim / 2) of a head turned by the angle of their row and column.
TEST_P(CudaRotate, TurnsPairsInPlace) {
  const RotateCase& problem = std::get<0>(GetParam());
  const DType compute = std::get<1>(GetParam());
  const int64_t half = problem.head_dim / 2, width = problem.heads * problem.head_dim;
  const int64_t columns = width + problem.others;
  const auto array = [&](DType dtype, const Values& values) {
    return DeviceArray(dtype, values, problem.shifted);
  };
  const DeviceArray x = array(compute, numbers(problem.rows * columns));
  const int64_t positions = problem.first_position + problem.n;
  const DeviceArray cos = array(DType::kFloat32, numbers(positions * half));
  const DeviceArray sin = array(DType::kFloat32, numbers(positions * half));
  const Values xs = x.values(), coses = cos.values(), sines = sin.values();
  for (const bool inverse : {false, true}) {
    SCOPED_TRACE(inverse);
    Values want = xs, magnitudes(xs.size());
    for (int64_t r = 0; r < problem.rows; ++r) {
      for (int64_t c = 0; c < width; ++c) {
        const int64_t pair = c % problem.head_dim, d = pair % half;
        const auto angle = static_cast<size_t>((problem.first_position + r % problem.n) * half + d);
        const auto at = static_cast<size_t>(r * columns + c);
        const double own = xs[at] * coses[angle];
        const double other =
            xs[pair < half ? at + static_cast<size_t>(half) : at - static_cast<size_t>(half)] *
            sines[angle];
        want[at] = own + ((pair < half) == inverse ? other : -other);
        magnitudes[at] = std::abs(own) + std::abs(other);
      }
    }
    const auto got = repeated([&] {
      const DeviceArray own = array(compute, xs);
      kElementwise.rotate(context(), {.elements = {problem.rows, columns, compute},
                                      .x = own.data(),
                                      .heads = problem.heads,
                                      .head_dim = problem.head_dim,
                                      .n = problem.n,
                                      .first_position = problem.first_position,
                                      .cos = cos.data(),
                                      .sin = sin.data(),
                                      .inverse = inverse});
      return std::vector<Values>{own.values()};
    });
    expect_near("x", got[0], want, [&](size_t i) {
      return magnitudes[i] == 0 ? 0  // behind the heads: as it was
                                : rounding(compute, want[i]) + 0x1p-20 * magnitudes[i];
    });
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, CudaRotate,
    testing::Combine(
        testing::Values(
            RotateCase{4096, 1024, 0, 16, 64, 512, false},
            RotateCase{300, 100, 17, 10, 128, 256, false}, RotateCase{77, 77, 5, 3, 32, 8, false},
            RotateCase{64, 32, 0, 5, 16, 0, false}, RotateCase{33, 11, 2, 70, 256, 64, false},
            RotateCase{50, 10, 1, 6, 40, 24, false}, RotateCase{50, 50, 0, 2, 8, 8, false},
            RotateCase{20, 20, 3, 4, 64, 3, false}, RotateCase{20, 20, 3, 600, 8, 8, false},
            RotateCase{129, 43, 0, 8, 64, 64, true}, RotateCase{1, 1, 1000, 1, 64, 64, false}),
        testing::Values(DType::kBFloat16, DType::kFloat16)),
    rotate_name);

TEST_F(CudaElementwise, NoRowsGiveSumsOfZero) {
  for (const int64_t columns : {512, 7}) {
    const Elements none{0, columns, DType::kBFloat16};
    const DeviceArray sum(DType::kFloat32, columns), of_gelu(DType::kFloat32, columns);
    const DeviceArray of_weight(DType::kFloat32, columns);
    kElementwise.column_sum(context(), {none, nullptr, {sum.data(), false}});
    kElementwise.gelu_grad(context(), {none, nullptr, nullptr, nullptr, {of_gelu.data(), false}});
    NormGradArgs args;
    args.elements = none;
    args.weight_sum = {of_weight.data(), false};
    kElementwise.norm_grad(context(), args);
    const Values zeros(static_cast<size_t>(columns));
    EXPECT_EQ(sum.values(), zeros);
    EXPECT_EQ(of_gelu.values(), zeros);
    EXPECT_EQ(of_weight.values(), zeros);
  }
}

}  // namespace
}  // namespace lace::test
