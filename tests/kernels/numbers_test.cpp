// What CPU kernels do with numbers that are hard on them: large logits, and huge values in rows
// that a query may not see.
#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "lace/error.h"
#include "lace/pattern.h"

#include "kernels/problem.h"
#include "kernels/tolerances.h"

namespace lace::test {
namespace {

std::vector<const Kernel*> fast_kernels(const Problem& problem) {
  std::vector<const Kernel*> found;
  for (const Kernel& kernel : kernels()) {
    if (kernel.device != Device::kCpu || kernel.name == "reference") continue;
    if (kernel.unavailable().empty() && kernel.unsupported(problem.shape()).empty()) {
      found.push_back(&kernel);
    }
  }
  return found;
}

// Sets every element of `tensor` to value(batch, head, row, d).
template <typename Value>
void set_all(Tensor& tensor, const Value& value) {
  for (int64_t b = 0; b < tensor.size(0); ++b) {
    for (int64_t h = 0; h < tensor.size(1); ++h) {
      for (int64_t r = 0; r < tensor.size(2); ++r) {
        for (int64_t d = 0; d < tensor.size(3); ++d) tensor.set(b, h, r, d, value(b, h, r, d));
      }
    }
  }
}

// ‖got − want‖ / ‖want‖
double distance(const std::vector<double>& got, const std::vector<double>& want) {
  double error = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  return std::sqrt(error / size);
}

// A problem whose logits are ±`logit` and a few more or less, and whose q·k are exact in float32:
// what is measured is softmax alone.
Problem large_logits(const Case& shape, double logit) {
  Problem problem(shape, 21);
  std::mt19937_64 generator(22);
  std::uniform_int_distribution<int> halves(-2, 2);
  const double large = std::round(logit / problem.scale() / 676);
  set_all(problem.q(), [&](int64_t, int64_t, int64_t, int64_t d) -> double {
    return d == 0 ? large : halves(generator) * 0.5;
  });
  set_all(problem.k(), [&](int64_t, int64_t, int64_t r, int64_t d) -> double {
    return d == 0 ? (r % 3 == 1 ? -676 : 676) : halves(generator) * 0.5;
  });
  return problem;
}

class LargeLogits : public testing::TestWithParam<double> {};

TEST_P(LargeLogits, CostNoMoreThanTheRoundingOfLse) {
  const double logit = GetParam();
  for (const char* pattern : {"dense", "local(40) | strided(16)"}) {
    Case shape{.pattern = pattern, .q_len = 230, .k_len = 230, .qk_dim = 48, .v_dim = 32};
    const SerialExecutor executor(1);
    const Problem problem = large_logits(shape, logit);
    shape.dtype = DType::kFloat64;
    Problem exact = large_logits(shape, logit);
    Problem source = problem;
    set_all(exact.v(), [&](auto... at) { return source.v().get(at...); });
    set_all(exact.dout(), [&](auto... at) { return source.dout().get(at...); });
    const Kernel& reference = find_kernel("reference");
    const Forward forward = exact.forward(reference, executor);
    const Backward backward = exact.backward(reference, executor, forward);
    // Every weight of a row is off by what its lse was rounded by.
    const double lse_rounding = std::exp2(std::floor(std::log2(logit)) - 24);
    for (const Kernel* kernel : fast_kernels(problem)) {
      SCOPED_TRACE(concat(kernel->name, " ", pattern));
      const Forward got = problem.forward(*kernel, executor);
      const Backward gradients = problem.backward(*kernel, executor, got);
      EXPECT_LE(distance(got.out, forward.out), 1e-6);
      EXPECT_LE(distance(gradients.dq, backward.dq), lse_rounding);
      EXPECT_LE(distance(gradients.dk, backward.dk), lse_rounding);
      EXPECT_LE(distance(gradients.dv, backward.dv), lse_rounding);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, LargeLogits, testing::Values(5e4, 4e5),
                         [](const auto& info) { return concat("about_", int64_t(info.param)); });

TEST(LargeLogitsOfBFloat16, CostNoMoreThanSmallOnes) {
  const Case shape{
      .dtype = DType::kBFloat16, .q_len = 230, .k_len = 230, .qk_dim = 48, .v_dim = 32};
  const SerialExecutor executor(1);
  const Problem problem = large_logits(shape, 5e4);
  const Forward forward = problem.forward(find_kernel("reference"), executor);
  for (const Kernel* kernel : fast_kernels(problem)) {
    SCOPED_TRACE(std::string(kernel->name));
    const Forward got = problem.forward(*kernel, executor);
    EXPECT_LE(distance(got.out, forward.out), tolerances(shape.dtype, 1).out.rms);
  }
}

// ---- rows that may not be seen ------------------------------------------------------------------

const char* const kHidingPatterns[] = {
    "dense",
    "local(20) | strided(20)",
    "block(48)",
    "summary(32, 4) | local(9)",
    "bidirectional(local(40) | global(3))",
    "heads(2*strided(7), 2*local(3, 16) | sinks(2))",
};

struct Results {
  Forward forward;
  Backward backward;
};

Results run(const Problem& problem, const Kernel& kernel) {
  const SerialExecutor executor(1);
  Results results;
  results.forward = problem.forward(kernel, executor);
  results.backward = problem.backward(kernel, executor, results.forward);
  return results;
}

// The largest of a dtype, of both signs: sums of products of them overflow.
double huge(DType dtype, int64_t d) {
  const double largest = dtype == DType::kFloat16 ? 65504 : 3.3e38;
  return d % 2 == 0 ? largest : -largest;
}

class Hidden {
 public:
  Hidden(const Case& shape, const Kernel& kernel)
      : shape_(shape),
        kernel_(kernel),
        bound_(Pattern::parse(shape.pattern).bind(shape.heads, shape.q_len, shape.k_len)),
        clean_(run(Problem(shape, 31), kernel)) {}

  // Huge values in k and v of `key`: queries that do not attend to it notice nothing, nor do keys
  // that are attended to by such queries alone.
  void expect_key_stays_hidden(int64_t key) {
    compared_ = 0;
    Problem problem(shape_, 31);
    for (int64_t h = 0; h < shape_.kv_heads; ++h) {
      for (int64_t d = 0; d < shape_.qk_dim; ++d) problem.k().set(0, h, key, d, big(d));
      for (int64_t d = 0; d < shape_.v_dim; ++d) problem.v().set(0, h, key, d, big(d));
    }
    const Results got = run(problem, kernel_);
    for (int64_t h = 0; h < shape_.heads; ++h) {
      for (int64_t r = 0; r < shape_.q_len; ++r) {
        if (!attends(h, r, key)) expect_query_unchanged(got, h, r);
      }
    }
    for (int64_t other = 0; other < shape_.k_len; ++other) {
      for (int64_t kv_head = 0; kv_head < shape_.kv_heads; ++kv_head) {
        const auto sees_both = [&](int64_t h, int64_t r) {
          return attends(h, r, key) && attends(h, r, other);
        };
        if (!any_query(kv_head, sees_both)) expect_key_unchanged(got, kv_head, other);
      }
    }
    EXPECT_GT(compared_, 0);
  }

  // Huge values in q and dout of the query of `row`: other queries notice nothing, nor do keys that
  // it does not attend to.
  void expect_query_stays_hidden(int64_t row) {
    compared_ = 0;
    Problem problem(shape_, 31);
    for (int64_t h = 0; h < shape_.heads; ++h) {
      for (int64_t d = 0; d < shape_.qk_dim; ++d) problem.q().set(0, h, row, d, big(d));
      for (int64_t d = 0; d < shape_.v_dim; ++d) problem.dout().set(0, h, row, d, big(d));
    }
    const Results got = run(problem, kernel_);
    for (int64_t h = 0; h < shape_.heads; ++h) {
      for (int64_t r = 0; r < shape_.q_len; ++r) {
        if (r != row) expect_query_unchanged(got, h, r);
      }
    }
    for (int64_t key = 0; key < shape_.k_len; ++key) {
      for (int64_t kv_head = 0; kv_head < shape_.kv_heads; ++kv_head) {
        const auto is_seen = [&](int64_t h, int64_t r) { return r == row && attends(h, r, key); };
        if (!any_query(kv_head, is_seen)) expect_key_unchanged(got, kv_head, key);
      }
    }
    EXPECT_GT(compared_, 0);
  }

 private:
  double big(int64_t d) const { return huge(shape_.dtype, d); }
  bool attends(int64_t head, int64_t row, int64_t key) const {
    return bound_.attends(head, shape_.k_len - shape_.q_len + row, key);
  }
  template <typename Condition>
  bool any_query(int64_t kv_head, const Condition& condition) const {
    const int64_t group = shape_.heads / shape_.kv_heads;
    for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      for (int64_t r = 0; r < shape_.q_len; ++r) {
        if (condition(h, r)) return true;
      }
    }
    return false;
  }
  void expect_row(const std::vector<double>& got, const std::vector<double>& want, int64_t row,
                  int64_t dim, const char* what) {
    for (int64_t d = 0; d < dim; ++d) {
      const auto i = static_cast<size_t>(row * dim + d);
      ASSERT_EQ(got[i], want[i]) << what << " of row " << row;
    }
    ++compared_;
  }
  void expect_query_unchanged(const Results& got, int64_t head, int64_t row) {
    const int64_t at = head * shape_.q_len + row;
    expect_row(got.forward.out, clean_.forward.out, at, shape_.v_dim, "out");
    expect_row(got.forward.lse, clean_.forward.lse, at, 1, "lse");
    expect_row(got.backward.dq, clean_.backward.dq, at, shape_.qk_dim, "dq");
  }
  void expect_key_unchanged(const Results& got, int64_t kv_head, int64_t key) {
    const int64_t at = kv_head * shape_.k_len + key;
    expect_row(got.backward.dk, clean_.backward.dk, at, shape_.qk_dim, "dk");
    expect_row(got.backward.dv, clean_.backward.dv, at, shape_.v_dim, "dv");
  }

  Case shape_;
  const Kernel& kernel_;
  BoundPattern bound_;
  Results clean_;
  int compared_ = 0;
};

TEST(HiddenRows, HugeValuesInThemChangeNothing) {
  for (const char* pattern : kHidingPatterns) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      const Case shape{.pattern = pattern,
                       .dtype = dtype,
                       .heads = 4,
                       .kv_heads = 2,
                       .q_len = 120,
                       .k_len = 140,
                       .qk_dim = 16,
                       .v_dim = 24};
      for (const Kernel* kernel : fast_kernels(Problem(shape, 31))) {
        Hidden hidden(shape, *kernel);
        for (const int64_t row : {1, 31, 77, 119}) {
          SCOPED_TRACE(concat(kernel->name, " ", shape.name(), " row ", row));
          hidden.expect_key_stays_hidden(row + 20);
          hidden.expect_query_stays_hidden(row);
        }
      }
    }
  }
}

}  // namespace
}  // namespace lace::test
