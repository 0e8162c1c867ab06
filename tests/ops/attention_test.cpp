// What lace::attention returns: values, layouts, dtypes, the kernel that ran.

#include "lace/attention.h"

#include <cmath>
#include <cstdlib>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>

#include "lace/sequences.h"

#include "kernels/kernel.h"
#include "ops/attention_arguments.h"
#include "ops/dense_attention.h"
#include "ops/kernel_call.h"

namespace lace {
namespace {

using test::dense_attention;
using test::random_leaf;

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

TEST(Attention, EqualsMaskedSoftmax) {
  at::manual_seed(1);
  for (const char* text : {"dense", "local(7) | strided(5)", "fixed(8, 2, 4)",
                           "bidirectional(local(9) | global(2))", "heads(2*dense, 2*local(3))"}) {
    const Pattern pattern = Pattern::parse(text);
    for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16}) {
      const at::Tensor q = at::randn({2, 4, 37, 16}).to(type);
      const at::Tensor k = at::randn({2, 2, 45, 16}).to(type);
      const at::Tensor v = at::randn({2, 2, 45, 24}).to(type);
      const auto [out, lse] = attention_with_lse(q, k, v, pattern);
      const auto [expected_out, expected_lse] =
          dense_attention(q.to(at::kDouble), k.to(at::kDouble), v.to(at::kDouble), pattern, 0.25);
      const double tolerance = type == at::kDouble ? 1e-12 : type == at::kFloat ? 1e-5 : 0.03;
      EXPECT_EQ(out.scalar_type(), type);
      EXPECT_EQ(lse.scalar_type(), type == at::kDouble ? at::kDouble : at::kFloat);
      EXPECT_LT(largest_difference(out, expected_out), tolerance) << text << " " << type;
      EXPECT_LT(largest_difference(lse, expected_lse), tolerance) << text << " " << type;
    }
  }
}

TEST(Attention, ScaleIsAnOption) {
  const at::Tensor q = at::randn({1, 1, 9, 8}, at::kDouble);
  const at::Tensor out = attention(q, q, q, dense(), {.scale = 2.5});
  EXPECT_LT(largest_difference(out, dense_attention(q, q, q, dense(), 2.5).first), 1e-12);
}

TEST(Attention, RowsWithoutKeysGiveZero) {
  const at::Tensor q = random_leaf({1, 2, 20, 8}, at::kFloat);
  const auto [out, lse] = attention_with_lse(q, q, q, summary(8, 2));  // the first 6 see nothing
  EXPECT_EQ(out.slice(2, 0, 6).abs().max().item<float>(), 0);
  EXPECT_TRUE(at::isneginf(lse.slice(2, 0, 6)).all().item<bool>());
  EXPECT_TRUE(at::isfinite(lse.slice(2, 6)).all().item<bool>());
  out.sum().backward();
  EXPECT_TRUE(at::isfinite(q.grad()).all().item<bool>());
}

TEST(Attention, FusedProjectionNeedsNoCopy) {
  at::manual_seed(2);
  const int64_t batch = 2, n = 33, heads = 4, head_dim = 16;
  const at::Tensor fused = at::randn({batch, n, 3, heads, head_dim});
  auto part = [&](int64_t i) { return fused.select(2, i).transpose(1, 2); };
  const at::Tensor q = part(0), k = part(1), v = part(2);
  EXPECT_EQ(ops::with_contiguous_rows(q).data_ptr(), q.data_ptr());
  const at::Tensor out = attention(q, k, v, local(9));
  EXPECT_TRUE(at::equal(out, attention(q.contiguous(), k.contiguous(), v.contiguous(), local(9))));
  // Merging the heads again is a view.
  EXPECT_TRUE(out.transpose(1, 2).is_contiguous());
}

TEST(Attention, AnyStrides) {
  at::manual_seed(3);
  const at::Tensor base = at::randn({2, 3, 16, 29}, at::kFloat);
  const at::Tensor inner = base.transpose(2, 3);  // innermost stride 29
  const at::Tensor expanded = at::randn({1, 1, 29, 16}).expand({2, 3, 29, 16});  // strides 0
  const at::Tensor sliced = at::randn({2, 3, 58, 40}).slice(2, 0, 58, 2).slice(3, 5, 21);
  for (const at::Tensor& q : {inner, expanded, sliced}) {
    for (const at::Tensor& k : {inner, expanded, sliced}) {
      const at::Tensor leaf_q = q.detach().requires_grad_(), leaf_k = k.detach().requires_grad_();
      const at::Tensor copy_q = q.contiguous().detach().requires_grad_();
      const at::Tensor copy_k = k.contiguous().detach().requires_grad_();
      const at::Tensor out = attention(leaf_q, leaf_k, sliced, strided(4));
      const at::Tensor expected = attention(copy_q, copy_k, sliced.contiguous(), strided(4));
      EXPECT_TRUE(at::equal(out, expected));
      out.sum().backward();  // its gradient is expanded: strides 0
      expected.backward(at::ones_like(expected));
      EXPECT_TRUE(at::equal(leaf_q.grad(), copy_q.grad()));
      EXPECT_TRUE(at::equal(leaf_k.grad(), copy_k.grad()));
    }
  }
}

// Each document alone is its rows in the pack, and padding changes nothing.
TEST(Attention, SequencesEqualEachAlone) {
  at::manual_seed(9);
  const Pattern pattern = Pattern::parse("local(9) | summary(16, 4)");
  const at::Tensor q = at::randn({70, 2, 16}), k = at::randn({70, 2, 16}),
                   v = at::randn({70, 2, 24});
  const at::Tensor cu = at::tensor({0, 40, 41, 70}, at::kInt);
  const auto [out, lse] =
      attention_with_lse(q, k, v, pattern, {.sequences = packed_sequences(cu, cu)});
  EXPECT_EQ(out.sizes(), at::IntArrayRef({70, 2, 24}));
  EXPECT_EQ(lse.sizes(), at::IntArrayRef({2, 70}));
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 40}, {40, 41}, {41, 70}}) {
    const auto part = [&, from = begin, to = end](const at::Tensor& t) {
      return t.slice(0, from, to).transpose(0, 1).unsqueeze(0);
    };
    const auto [alone, alone_lse] = attention_with_lse(part(q), part(k), part(v), pattern);
    EXPECT_LT(largest_difference(part(out), alone), 1e-5);
    EXPECT_LT(largest_difference(lse.slice(1, begin, end), alone_lse[0]), 1e-5);
    // The same as one of a padded batch, its padding on the left.
    const auto padded = [&, from = begin, to = end](const at::Tensor& t) {
      return at::constant_pad_nd(t.slice(0, from, to), {0, 0, 0, 0, 5, 0}, NAN)
          .transpose(0, 1)
          .unsqueeze(0);
    };
    const int64_t rows = end - begin + 5;
    const at::Tensor places =
        padded_sequences(1, rows, rows, {.k_start = at::tensor({-5}, at::kInt)});
    const at::Tensor left =
        attention(padded(q), padded(k), padded(v), pattern, {.sequences = places});
    EXPECT_LT(largest_difference(left.slice(2, 5), alone), 1e-5);
    EXPECT_EQ(left.slice(2, 0, 5).abs().max().item<float>(), 0);
  }
}

// Head_dims that are no multiple of 8, of all kinds of memory, for a kernel that asks for such.
TEST(Attention, HeadDimsThatAKernelLacksAreFilledUpWithZeros) {
  static const Kernel* real = &select_kernel({Device::kCpu, DType::kFloat32, 1, 1, 1, 1, 1, 8, 8});
  Kernel eights = *real;
  eights.dim_multiple = [](const AttentionShape&) -> int64_t { return 8; };
  eights.forward = [](const Context& context, const Plan& plan, const ForwardArgs& args) {
    EXPECT_EQ(args.shape.qk_dim % 8 + args.shape.v_dim % 8, 0);
    EXPECT_EQ(args.q.row_stride % 8 + args.v.row_stride % 8 + args.out.row_stride % 8, 0);
    real->forward(context, plan, args);
  };
  eights.backward = [](const Context& context, const Plan& plan, const Plan& transposed,
                       const BackwardArgs& args) {
    EXPECT_EQ(args.shape.qk_dim % 8 + args.shape.v_dim % 8, 0);
    EXPECT_EQ(args.dq.row_stride % 8 + args.dv.row_stride % 8 + args.dout.row_stride % 8, 0);
    real->backward(context, plan, transposed, args);
  };
  at::manual_seed(11);
  const Pattern pattern = Pattern::parse("local(9) | strided(7)");
  const auto tensor = [](int64_t heads, int64_t dim, int layout) {
    if (layout == 0) return at::randn({2, heads, 40, dim});
    if (layout == 1) return at::randn({2, 40, heads, dim}).transpose(1, 2);
    return at::randn({2, heads, 40, dim + 3}).slice(3, 1, dim + 1);
  };
  const std::pair<int64_t, int64_t> all_dims[] = {{1, 1}, {12, 20}, {16, 20}, {20, 16}, {33, 7}};
  for (const auto& [qk_dim, v_dim] : all_dims) {
    for (const int layout : {0, 1, 2}) {
      for (const bool padded : {false, true}) {
        SCOPED_TRACE(testing::Message() << qk_dim << ", " << v_dim << ", layout " << layout);
        const at::Tensor q = tensor(4, qk_dim, layout), k = tensor(2, qk_dim, layout),
                         v = tensor(2, v_dim, layout), dout = tensor(4, v_dim, layout);
        AttentionOptions options{.sinks = at::randn({4})};
        if (padded) {
          options.sequences = padded_sequences(2, 40, 40, {.k_lens = at::tensor({31, 40})});
          for (const at::Tensor& t : {q, k, v, dout}) t.select(0, 0).slice(1, 31).fill_(NAN);
        }
        const auto arguments = ops::check_attention("attention", q, k, v, options);
        const auto [out, lse] = ops::run_forward(eights, arguments, q, k, v, pattern, options);
        const auto [whole, whole_lse] =
            ops::run_forward(*real, arguments, q, k, v, pattern, options);
        EXPECT_EQ(out.strides(), whole.strides());
        EXPECT_LT(largest_difference(out, whole), 1e-5);
        EXPECT_TRUE(at::allclose(lse, whole_lse));
        ops::Gradients got, want;
        for (ops::Gradients* grads : {&got, &want}) {
          grads->q = tensor(4, qk_dim, layout);
          grads->k = tensor(2, qk_dim, layout);
          grads->v = tensor(2, v_dim, layout);
          ops::run_backward(grads == &got ? eights : *real, arguments, *grads, {dout}, q, k, v,
                            whole, whole_lse, pattern, options);
        }
        EXPECT_LT(largest_difference(got.q, want.q), 1e-5);
        EXPECT_LT(largest_difference(got.k, want.k), 1e-5);
        EXPECT_LT(largest_difference(got.v, want.v), 1e-5);
        EXPECT_TRUE(at::allclose(got.sinks, want.sinks, 1e-4, 1e-5));
      }
    }
  }
}

TEST(Attention, EmptyBatch) {
  const at::Tensor q = random_leaf({0, 2, 5, 8}, at::kFloat);
  const auto [out, lse] = attention_with_lse(q, q, q, dense());
  EXPECT_EQ(out.sizes(), q.sizes());
  EXPECT_EQ(lse.sizes(), at::IntArrayRef({0, 2, 5}));
  out.sum().backward();
  EXPECT_EQ(q.grad().sizes(), q.sizes());
}

TEST(Attention, AutocastComputesInItsDtype) {
  at::manual_seed(4);
  const at::Tensor q = random_leaf({1, 2, 40, 16}, at::kFloat);
  const at::Tensor k = random_leaf({1, 2, 40, 16}, at::kFloat);
  const at::Tensor v = random_leaf({1, 2, 40, 16}, at::kBFloat16);  // mixed, as layers give it
  const at::Tensor f64 = at::randn({1, 2, 40, 16}, at::kDouble);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  const at::Tensor out = attention(q, k, v, local(8));
  const at::Tensor out64 = attention(f64, f64, f64, local(8));
  at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(at::kCPU, false);
  EXPECT_EQ(out.scalar_type(), at::kBFloat16);
  EXPECT_EQ(out64.scalar_type(), at::kDouble);
  EXPECT_TRUE(at::equal(out, attention(q.to(at::kBFloat16), k.to(at::kBFloat16), v, local(8))));
  out.sum().backward();
  EXPECT_EQ(q.grad().scalar_type(), at::kFloat);
  EXPECT_EQ(v.grad().scalar_type(), at::kBFloat16);
}

// Sets LACE_KERNEL for a scope.
struct ForcedKernel {
  explicit ForcedKernel(const std::string& name) { setenv("LACE_KERNEL", name.c_str(), 1); }
  ~ForcedKernel() { unsetenv("LACE_KERNEL"); }
};

TEST(Attention, SaysWhatRunsIfVerbose) {
  const at::Tensor q = at::randn({1, 2, 41, 16});
  const auto told = [&] {
    testing::internal::CaptureStderr();
    attention(q, q, q, dense());
    return testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(told(), "");
  setenv("LACE_VERBOSE", "1", 1);
  EXPECT_EQ(told(),
            "lace: attention on cpu, float32, batch 1, heads 2/2, seq_len 41/41, head_dim "
            "16/16: " +
                attention_kernel(q, q, q) + "\n");
  EXPECT_EQ(told(), "") << "once for a shape";
  unsetenv("LACE_VERBOSE");
}

TEST(Attention, RunsTheKernelThatItNames) {
  const at::Tensor q = random_leaf({1, 2, 40, 16}, at::kFloat);
  const at::Tensor q64 = q.detach().to(at::kDouble).requires_grad_();
  EXPECT_EQ(attention_kernel(q64, q64, q64), "reference");
  attention(q64, q64, q64, dense()).sum().backward();
  EXPECT_EQ(last_kernel(), "reference");
  EXPECT_NE(attention_kernel(q, q, q), "reference");
  attention(q, q, q, dense());
  EXPECT_EQ(last_kernel(), attention_kernel(q, q, q));
  for (const Kernel& kernel : kernels()) {
    if (kernel.device != Device::kCpu || !kernel.unavailable().empty()) continue;
    ForcedKernel forced{std::string(kernel.name)};
    EXPECT_EQ(attention_kernel(q, q, q), kernel.name);
    attention(q, q, q, dense()).sum().backward();
    EXPECT_EQ(last_kernel(), kernel.name);
  }
  ForcedKernel forced{"cpu_abacus"};
  EXPECT_THROW(attention(q, q, q, dense()), Error);
}

}  // namespace
}  // namespace lace
