// lace::attention on CUDA tensors.

#include <ATen/autocast_mode.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "lace/attention.h"
#include "lace/error.h"
#include "lace/sequences.h"

#include "kernels/kernel.h"
#include "ops/attention_call.h"

namespace lace::test {
namespace {

class CudaAttention : public testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU";
  }
};

at::Tensor random(int64_t heads, int64_t rows, int64_t dim, at::ScalarType dtype = at::kBFloat16) {
  return at::randn({2, heads, rows, dim}, at::device(at::kCUDA).dtype(dtype));
}

// That of this GPU for calls that it takes.
const char* best_kernel() {
  return at::cuda::getCurrentDeviceProperties()->major == 9 ? "cuda_sm90" : "cuda_portable";
}

double relative_error(const at::Tensor& got, const at::Tensor& want) {
  const at::Tensor wanted = want.cpu().to(at::kDouble);
  const at::Tensor difference = got.cpu().to(at::kDouble) - wanted;
  return (difference.norm() / wanted.norm()).item<double>();
}

// Inputs as given and in float64 on the CPU, each with gradients.
struct BothSides {
  explicit BothSides(const std::vector<at::Tensor>& values) {
    for (const at::Tensor& value : values) {
      inputs.push_back(value.detach().requires_grad_());
      wide.push_back(value.detach().cpu().to(at::kDouble).requires_grad_());
    }
  }
  // Runs both forward and backward.
  void run(const Pattern& pattern) {
    std::tie(out, lse) = attention_with_lse(inputs[0], inputs[1], inputs[2], pattern, options);
    std::tie(want, want_lse) = attention_with_lse(wide[0], wide[1], wide[2], pattern, options);
    const at::Tensor dout = at::randn_like(out);
    out.backward(dout);
    want.backward(dout.cpu().to(at::kDouble));
  }
  std::vector<at::Tensor> inputs, wide;
  AttentionOptions options;  // without tensors
  at::Tensor out, lse, want, want_lse;
};

TEST_F(CudaAttention, AgreesWithFloat64OnTheCpu) {
  for (const auto dtype : {at::kBFloat16, at::kHalf}) {
    for (const char* text : {"dense", "local(64) | strided(64)", "fixed(64, 16, 2)",
                             "bidirectional(local(50) | global(2))"}) {
      SCOPED_TRACE(text);
      BothSides both(
          {random(4, 500, 64, dtype), random(2, 500, 64, dtype), random(2, 500, 64, dtype)});
      both.run(Pattern::parse(text));
      EXPECT_LT(relative_error(both.out, both.want), 5e-3);
      EXPECT_LT(relative_error(both.lse, both.want_lse), 1e-5);
      for (size_t i = 0; i < 3; i++) {
        EXPECT_LT(relative_error(both.inputs[i].grad(), both.wide[i].grad()), 1e-2) << i;
      }
    }
  }
}

// So many items that every block works on several, of all passes: against float32 on the GPU.
TEST_F(CudaAttention, BlocksThatWorkOnManyItemsAgree) {
  const int64_t heads = 24, rows = 3000;
  const at::Tensor i = at::arange(rows, at::kCUDA).unsqueeze(1), j = at::arange(rows, at::kCUDA);
  const std::vector<std::pair<const char*, at::Tensor>> patterns = {
      {"local(64) | strided(64)", (i >= j) & ((i - j < 64) | ((i - j) % 64 == 0))},
      {"strided(64)", (i >= j) & ((i - j) % 64 == 0)},
      {"bidirectional(local(50) | global(2))", ((i - j).abs() <= 25) | (i < 2) | (j < 2)}};
  for (const auto& [text, live] : patterns) {
    for (const int64_t dim : {64, 128}) {
      SCOPED_TRACE(testing::Message() << text << ", head_dim " << dim);
      std::vector<at::Tensor> inputs, wide;
      for (int x = 0; x < 3; ++x) {
        inputs.push_back(random(heads, rows, dim).requires_grad_());
        wide.push_back(inputs.back().detach().to(at::kFloat).requires_grad_());
      }
      const at::Tensor out = attention(inputs[0], inputs[1], inputs[2], Pattern::parse(text));
      const at::Tensor scores = at::matmul(wide[0], wide[1].transpose(2, 3)) / std::sqrt(dim);
      const at::Tensor weights = at::softmax(scores.masked_fill(~live, -INFINITY), -1);
      const at::Tensor want = at::matmul(weights, wide[2]);
      const at::Tensor dout = at::randn_like(out);
      const auto grads = torch::autograd::grad({out}, inputs, {dout});
      const auto wanted = torch::autograd::grad({want}, wide, {dout.to(at::kFloat)});
      EXPECT_LT(relative_error(out, want), 5e-3);
      for (size_t x = 0; x < 3; ++x) EXPECT_LT(relative_error(grads[x], wanted[x]), 1e-2) << x;
    }
  }
}

TEST_F(CudaAttention, RowsWithoutKeysAreZero) {
  // Head 0: the first 12 queries have no key. Head 1: all but a few of the first 64.
  const Pattern pattern =
      Pattern::parse("heads(1*summary(16, 4), 1*(strided(64) & summary(64, 2)))");
  BothSides both({random(2, 300, 64), random(2, 300, 64), random(2, 300, 64)});
  both.run(pattern);
  const at::Tensor empty = both.want_lse.isinf();
  ASSERT_GT(empty.sum().item<int64_t>(), 0);
  EXPECT_TRUE(at::equal(both.lse.cpu().isinf(), empty));
  EXPECT_TRUE(at::all(both.lse.cpu().index({empty}) < 0).item<bool>());
  EXPECT_TRUE(at::all(both.out.cpu().index({empty}) == 0).item<bool>());
  EXPECT_TRUE(at::all(both.inputs[0].grad().cpu().index({empty}) == 0).item<bool>());
  EXPECT_LT(relative_error(both.out, both.want), 5e-3);
  for (size_t i = 0; i < 3; i++) {
    EXPECT_LT(relative_error(both.inputs[i].grad(), both.wide[i].grad()), 1e-2) << i;
  }
}

TEST_F(CudaAttention, LargeLogitsDoNotOverflow) {
  for (const auto dtype : {at::kBFloat16, at::kHalf}) {
    for (const char* text : {"dense", "local(64) | strided(64)", "fixed(64, 16, 2)"}) {
      SCOPED_TRACE(text);
      at::Tensor q = random(2, 300, 64, dtype), k = random(2, 300, 64, dtype);
      const at::Tensor logits = at::matmul(q.to(at::kFloat), k.to(at::kFloat).transpose(2, 3)) / 8;
      const double factor = std::sqrt(1e4 / logits.abs().max().item<double>());
      q = (q * factor).to(dtype), k = (k * factor).to(dtype);
      BothSides both({q, k, random(2, 300, 64, dtype)});
      both.run(Pattern::parse(text));
      // Logits of 10⁴ carry float32's rounding of about 10⁻³ into the probabilities.
      EXPECT_LT(relative_error(both.out, both.want), 2e-2);
      EXPECT_LT(relative_error(both.lse, both.want_lse), 1e-5);
      EXPECT_LT(relative_error(both.inputs[2].grad(), both.wide[2].grad()), 2e-2);
      for (const at::Tensor& input : both.inputs) {
        EXPECT_TRUE(input.grad().isfinite().all().item<bool>());
      }
    }
  }
}

TEST_F(CudaAttention, DeterministicRunsRepeatBitForBit) {
  AttentionOptions options;
  options.deterministic = true;
  for (const char* text : {"dense", "local(128) | strided(128)", "fixed(128, 32, 4)",
                           "bidirectional(local(50) | global(2))"}) {
    SCOPED_TRACE(text);
    const Pattern pattern = Pattern::parse(text);
    const std::vector<at::Tensor> inputs = {random(4, 1500, 64).requires_grad_(),
                                            random(4, 1500, 64).requires_grad_(),
                                            random(4, 1500, 64).requires_grad_()};
    const at::Tensor dout = random(4, 1500, 64);
    std::vector<at::Tensor> first;
    for (int run = 0; run < 4; ++run) {
      const at::Tensor out = attention(inputs[0], inputs[1], inputs[2], pattern, options);
      std::vector<at::Tensor> results = torch::autograd::grad({out}, inputs, {dout});
      results.push_back(out);
      if (run == 0) first = results;
      for (size_t i = 0; i < results.size(); ++i) EXPECT_TRUE(at::equal(results[i], first[i])) << i;
    }
  }
}

// As torch.use_deterministic_algorithms(True) asks for, and as it is without.
TEST_F(CudaAttention, HeedsTorchsDeterminism) {
  const Pattern pattern = Pattern::parse("bidirectional(local(50) | global(2))");
  std::vector<at::Tensor> inputs;
  for (int x = 0; x < 3; ++x) inputs.push_back(random(4, 1500, 64).requires_grad_());
  const at::Tensor dout = random(4, 1500, 64);
  const auto run = [&](bool asked) {
    at::globalContext().setDeterministicAlgorithms(asked, false);
    const at::Tensor out = attention(inputs[0], inputs[1], inputs[2], pattern);
    const at::Tensor dq = torch::autograd::grad({out}, inputs, {dout}).front();
    at::globalContext().setDeterministicAlgorithms(false, false);
    return dq;
  };
  const at::Tensor first = run(true), free = run(false);
  bool free_differs = !at::equal(free, first);
  for (int i = 0; i < 8; ++i) {
    EXPECT_TRUE(at::equal(run(true), first));
    free_differs |= !at::equal(run(false), free);
  }
  EXPECT_TRUE(free_differs) << "sums in free order are expected to differ somewhere";
}

TEST_F(CudaAttention, TinyScalesAverage) {
  const at::Tensor q = random(2, 300, 64);
  const at::Tensor want = attention(q.cpu().to(at::kDouble), q.cpu().to(at::kDouble),
                                    q.cpu().to(at::kDouble), local(70), {.scale = 0});
  for (const double scale : {0., 1e-46, -1e-46, 1e-40, 2e-38, -2e-38, 1e-30}) {
    EXPECT_LT(relative_error(attention(q, q, q, local(70), {.scale = scale}), want), 5e-3) << scale;
  }
}

// dout is contiguous, but begins between two multiples of 16 bytes.
TEST_F(CudaAttention, TakesGradientsFromAnywhere) {
  const at::Tensor memory = at::randn({2 * 2 * 300 * 64 + 3}, at::device(at::kCUDA));
  const at::Tensor dout = memory.to(at::kBFloat16).slice(0, 3).view({2, 2, 300, 64});
  at::Tensor q = random(2, 300, 64).requires_grad_();
  const at::Tensor out = attention(q, q.detach(), q.detach(), local(70));
  const auto from_odd = torch::autograd::grad({out}, {q}, {dout}, true);
  const auto from_even = torch::autograd::grad({out}, {q}, {dout.clone()});
  EXPECT_LT(relative_error(from_odd.front(), from_even.front()), 1e-3);
}

// What rows hold that a query may not see is nothing to it, as long as it is finite.
TEST_F(CudaAttention, UnseenRowsChangeNothing) {
  for (const char* text : {"dense", "local(70) | strided(64)", "block(64) | summary(64, 8)"}) {
    for (const int64_t dim : {64, 192}) {
      SCOPED_TRACE(testing::Message() << text << ", head_dim " << dim);
      std::vector<at::Tensor> inputs, padded;
      for (int x = 0; x < 3; ++x) {
        inputs.push_back(random(2, 300, dim));
        padded.push_back(inputs.back().clone());
        // Weights are computed again in backward: of logits past 10⁹ they would overflow.
        padded.back().slice(2, 201).fill_(x == 0 ? 1e3 : x == 1 ? -1e3 : 1e15);
      }
      const at::Tensor dout = random(2, 300, dim);
      dout.slice(2, 201).zero_();
      const auto run = [&](std::vector<at::Tensor>& x) {
        for (at::Tensor& input : x) input.requires_grad_();
        AttentionOptions options;
        options.deterministic = true;
        const at::Tensor out = attention(x[0], x[1], x[2], Pattern::parse(text), options);
        std::vector<at::Tensor> results = torch::autograd::grad({out}, x, {dout});
        results.push_back(out);
        return results;
      };
      const auto want = run(inputs), got = run(padded);
      for (size_t i = 0; i < want.size(); ++i) {
        EXPECT_TRUE(at::equal(got[i].slice(2, 0, 201), want[i].slice(2, 0, 201))) << i;
      }
    }
  }
}

TEST_F(CudaAttention, SaysWhichKernelRuns) {
  const at::Tensor q = random(2, 100, 64), wide = random(2, 100, 192);
  std::string best = "cuda_portable";
  for (const Kernel& kernel : kernels()) {
    if (kernel.name == "cuda_sm90" && kernel.unavailable().empty()) best = "cuda_sm90";
  }
  EXPECT_EQ(attention_kernel(q, q, q), best);
  EXPECT_EQ(attention_kernel(wide, wide, q), best);
  attention(q, q, q, Pattern::parse("dense"));
  EXPECT_EQ(last_kernel(), best);
}

TEST_F(CudaAttention, TensorsOnAnyGpu) {
  if (torch::cuda::device_count() < 2) GTEST_SKIP() << "one GPU only";
  const Pattern pattern = Pattern::parse("local(64) | strided(64)");
  BothSides first({random(2, 300, 64), random(2, 300, 64), random(2, 300, 64)});
  std::vector<at::Tensor> moved;
  for (const at::Tensor& input : first.inputs) moved.push_back(input.detach().to("cuda:1"));
  BothSides second(moved);
  first.run(pattern);
  second.run(pattern);  // the current GPU is cuda:0
  EXPECT_EQ(c10::cuda::current_device(), 0);
  EXPECT_EQ(second.out.device().index(), 1);
  EXPECT_EQ(second.inputs[0].grad().device().index(), 1);
  EXPECT_TRUE(at::equal(second.out.cpu(), first.out.cpu()));
  for (size_t i = 0; i < 3; i++) {
    EXPECT_LT(relative_error(second.inputs[i].grad(), second.wide[i].grad()), 1e-2) << i;
  }
  EXPECT_THROW(attention(first.inputs[0], second.inputs[1], first.inputs[2], pattern), Error);
}

// Filled up with zeros to the next multiple of 8: also those that a kernel for 64, 128 or 256 then
// has.
TEST_F(CudaAttention, TakesAnyHeadDim) {
  const std::pair<int64_t, int64_t> all_dims[] = {{12, 12}, {33, 64}, {72, 80}, {80, 72},
                                                  {96, 1},  {100, 7}, {7, 130}, {250, 255}};
  for (const auto& [qk_dim, v_dim] : all_dims) {
    SCOPED_TRACE(testing::Message() << "head_dim " << qk_dim << " and " << v_dim);
    BothSides both({random(4, 300, qk_dim), random(2, 300, qk_dim), random(2, 300, v_dim)});
    EXPECT_EQ(attention_kernel(both.inputs[0], both.inputs[1], both.inputs[2]), best_kernel());
    both.run(Pattern::parse("local(64) | strided(32)"));
    EXPECT_TRUE(both.out.is_contiguous());
    EXPECT_LT(relative_error(both.out, both.want), 5e-3);
    EXPECT_LT(relative_error(both.lse, both.want_lse), 1e-5);
    for (size_t i = 0; i < 3; i++) {
      EXPECT_LT(relative_error(both.inputs[i].grad(), both.wide[i].grad()), 1e-2) << i;
    }
  }
}

TEST_F(CudaAttention, SoftcapAgreesWithFloat64OnTheCpu) {
  for (const char* text :
       {"dense", "local(64) | strided(64)", "bidirectional(local(50) | global(2))"}) {
    for (const int64_t dim : {64, 128, 256}) {
      SCOPED_TRACE(testing::Message() << text << ", head_dim " << dim);
      BothSides both({random(4, 500, dim), random(2, 500, dim), random(2, 500, dim)});
      both.options.softcap = 0.8;
      both.run(Pattern::parse(text));
      EXPECT_LT(relative_error(both.out, both.want), 5e-3);
      EXPECT_LT(relative_error(both.lse, both.want_lse), 1e-5);
      for (size_t i = 0; i < 3; i++) {
        EXPECT_LT(relative_error(both.inputs[i].grad(), both.wide[i].grad()), 1e-2) << i;
      }
      attention(both.inputs[0], both.inputs[1], both.inputs[2], Pattern::parse(text), both.options);
      EXPECT_EQ(last_kernel(), best_kernel());
    }
  }
}

// Read by the kernel where it is, against the CPU, where it is part of the plan: blocks of a tile,
// of several and of none, of all heads or each its own, with fewer queries than keys, several
// passes, and no keys at all for some queries.
TEST_F(CudaAttention, MasksOfBlocksAgreeWithFloat64OnTheCpu) {
  for (const char* text : {"dense", "bidirectional(dense)", "local(100) | strided(64)"}) {
    for (const int64_t size : {1, 48, 64, 100, 128, 512}) {
      for (const int64_t q_len : {600, 333}) {
        const int64_t dim = size == 100 ? 128 : size == 48 ? 200 : 64;
        SCOPED_TRACE(testing::Message() << text << ", blocks of " << size << ", head_dim " << dim);
        BothSides both({random(4, q_len, dim), random(2, 600, dim), random(2, 600, dim)});
        const int64_t blocks = (600 + size - 1) / size - (size == 64 ? 1 : 0);
        const int64_t heads = size == 128 ? 1 : 4;
        both.options.block_mask = at::rand({heads, blocks, blocks}, at::kCUDA) < 0.4;
        both.options.block_size = size;
        both.run(Pattern::parse(text));
        EXPECT_TRUE(at::equal(both.lse.cpu().isinf(), both.want_lse.isinf()));
        EXPECT_LT(relative_error(both.out, both.want), 5e-3);
        EXPECT_LT(relative_error(both.lse.cpu().masked_fill(both.want_lse.isinf(), 0),
                                 both.want_lse.masked_fill(both.want_lse.isinf(), 0)),
                  1e-5);
        for (size_t i = 0; i < 3; i++) {
          EXPECT_LT(relative_error(both.inputs[i].grad(), both.wide[i].grad()), 1e-2) << i;
        }
        const at::Tensor again = attention(both.inputs[0], both.inputs[1], both.inputs[2],
                                           Pattern::parse(text), both.options);
        EXPECT_EQ(last_kernel(), best_kernel());
        EXPECT_TRUE(at::equal(again, both.out));
      }
    }
  }
}

// With padding: blocks are of positions.
TEST_F(CudaAttention, MasksOfBlocksCountFromEachSequencesFirstPosition) {
  const Pattern pattern = dense();
  const at::Tensor q = random(4, 300, 64), k = random(2, 300, 64), v = random(2, 300, 64);
  AttentionOptions options;
  options.block_mask = at::rand({4, 5, 5}, at::kCUDA) < 0.5;
  options.block_size = 64;
  const at::Tensor starts = at::tensor({0, -77}, at::kInt);
  options.sequences = padded_sequences(2, 300, 300, {.k_start = starts.cuda()});
  const at::Tensor out = attention(q, k, v, pattern, options);
  options.sequences = padded_sequences(2, 300, 300, {.k_start = starts});
  const auto wide = [](const at::Tensor& t) { return t.cpu().to(at::kDouble); };
  EXPECT_LT(relative_error(out, attention(wide(q), wide(k), wide(v), pattern, options)), 5e-3);
}

// Nothing waits for the mask: a recorded graph takes what it holds when it is replayed.
TEST_F(CudaAttention, GraphsTakeNewMasksOfBlocks) {
  const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool();
  const c10::cuda::CUDAStreamGuard guard(stream);
  const at::Tensor q = random(2, 500, 64), k = random(2, 500, 64), v = random(2, 500, 64);
  AttentionOptions options;
  options.block_mask = at::ones({2, 8, 8}, at::device(at::kCUDA).dtype(at::kBool));
  options.block_size = 64;
  attention(q, k, v, dense(), options);
  at::cuda::CUDAGraph graph;
  graph.capture_begin();
  const at::Tensor out = attention(q, k, v, dense(), options);
  graph.capture_end();
  for (int round = 0; round < 2; ++round) {
    options.block_mask.copy_(at::rand({2, 8, 8}, at::kCUDA) < 0.5);
    graph.replay();
    const at::Tensor want = attention(q, k, v, dense(), options);
    stream.synchronize();
    EXPECT_TRUE(at::equal(out, want));
  }
}

TEST_F(CudaAttention, SaysWhatWouldWork) {
  const at::Tensor q = random(1, 10, 258);
  try {
    attention(q, q, q, Pattern::parse("dense"));
    FAIL() << "no error";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("cuda_portable: head_dim 264 is more than 256"), std::string::npos) << text;
  }
}

TEST_F(CudaAttention, RunsOnTheCurrentStreamAndInGraphs) {
  const Pattern pattern = Pattern::parse("local(32) | strided(32)");
  const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool();
  const c10::cuda::CUDAStreamGuard guard(stream);
  const at::Tensor q = random(2, 300, 64), k = random(2, 300, 64), v = random(2, 300, 64);
  const at::Tensor want = attention(q, k, v, pattern);
  at::cuda::CUDAGraph graph;
  graph.capture_begin();
  const at::Tensor out = attention(q, k, v, pattern);
  graph.capture_end();
  out.fill_(NAN);
  graph.replay();
  stream.synchronize();
  EXPECT_TRUE(at::equal(out, want));

  at::cuda::CUDAGraph other;
  other.capture_begin();
  std::string error;
  try {
    attention(q, k, v, Pattern::parse("local(33)"));
  } catch (const Error& caught) {
    error = caught.what();
  }
  other.capture_end();
  EXPECT_NE(error.find("once before the capture"), std::string::npos) << error;
}

at::Tensor on_gpu(const std::vector<int>& numbers) {
  return at::tensor(numbers, at::device(at::kCUDA).dtype(at::kInt));
}

// Packed documents with sinks and a loss of lse, against the same in float64 on the CPU.
TEST_F(CudaAttention, SequencesAgreeWithFloat64OnTheCpu) {
  const at::Tensor cu = on_gpu({0, 300, 301, 301, 500, 513});
  for (const char* text : {"dense", "local(64) | strided(16)", "fixed(64, 16, 2)",
                           "bidirectional(local(50) | global(2))"}) {
    SCOPED_TRACE(text);
    const Pattern pattern = Pattern::parse(text);
    const auto values = [](int64_t heads) {
      return at::randn({520, heads, 64}, at::device(at::kCUDA).dtype(at::kBFloat16));
    };
    const std::vector<at::Tensor> given{values(4), values(2), values(2),
                                        at::randn({4}, at::device(at::kCUDA))};
    BothSides both(given);
    const auto results = [&](const std::vector<at::Tensor>& t, const at::Tensor& places) {
      return attention_with_lse(t[0], t[1], t[2], pattern,
                                {.sinks = t[3], .sequences = places, .max_len = 320});
    };
    const auto [out, lse] = results(both.inputs, packed_sequences(cu, cu));
    const auto [want, want_lse] = results(both.wide, packed_sequences(cu.cpu(), cu.cpu()));
    EXPECT_LT(relative_error(out, want), 0.01);
    EXPECT_EQ(out.slice(0, 513).abs().max().item<float>(), 0);
    EXPECT_TRUE(at::isneginf(lse.slice(1, 513)).all().item<bool>());
    const at::Tensor dout = at::randn_like(out), dlse = at::randn_like(lse);
    torch::autograd::backward({out, lse}, {dout, dlse});
    torch::autograd::backward({want, want_lse},
                              {dout.cpu().to(at::kDouble), dlse.cpu().to(at::kDouble)});
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_LT(relative_error(both.inputs[i].grad(), both.wide[i].grad()), 0.02) << i;
    }
  }
}

// What stands outside the sequences may be NaN, and a recorded call takes new lengths.
TEST_F(CudaAttention, ACapturedGraphTakesNewLengths) {
  const Pattern pattern = Pattern::parse("local(32) | strided(32)");
  const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool();
  const c10::cuda::CUDAStreamGuard guard(stream);
  const at::Tensor q = random(2, 300, 64), k = random(2, 300, 64), v = random(2, 300, 64);
  const at::Tensor lens = on_gpu({300, 10});
  const auto call = [&](const at::Tensor& x, const at::Tensor& lengths) {
    const at::Tensor places = padded_sequences(2, 300, 300, {.k_lens = lengths});
    return attention(x, k, v, pattern, {.sequences = places, .max_len = 300});
  };
  call(q, lens);
  at::cuda::CUDAGraph graph;
  graph.capture_begin();
  const at::Tensor out = call(q, lens);
  graph.capture_end();
  for (const auto& lengths : {std::vector<int>{5, 300}, {64, 129}, {0, 299}}) {
    lens.copy_(on_gpu(lengths));
    graph.replay();
    stream.synchronize();
    EXPECT_TRUE(at::equal(out, call(q, on_gpu(lengths))));
    for (int64_t b = 0; b < 2; ++b) {
      const int64_t length = lengths[static_cast<size_t>(b)];
      const at::Tensor padding = out[b].slice(1, length);
      EXPECT_TRUE(padding.numel() == 0 || padding.abs().max().item<float>() == 0);
      const at::Tensor poisoned = q.clone();
      poisoned[b].slice(1, length).fill_(NAN);
      EXPECT_TRUE(at::equal(out, call(poisoned, on_gpu(lengths))));
    }
  }
}

// So many items that every block works on several: each document is as if it were alone, one long
// one beside short ones.
TEST_F(CudaAttention, DocumentsAreAsIfAlone) {
  std::vector<int> ends{0};
  for (const int length : {2600, 1, 127, 128, 129, 0, 640}) ends.push_back(ends.back() + length);
  for (int i = 0; i < 20; ++i) ends.push_back(ends.back() + 190 + i);
  const at::Tensor cu = on_gpu(ends);
  for (const char* text : {"dense", "local(64) | strided(64)", "block(128) | summary(128, 32)",
                           "local(256) | sinks(4)", "bidirectional(local(50) | global(2))"}) {
    for (const int64_t dim : {64, 128}) {
      SCOPED_TRACE(testing::Message() << text << ", head_dim " << dim);
      const Pattern pattern = Pattern::parse(text);
      std::vector<at::Tensor> inputs;
      for (const int64_t heads : {24, 6, 6}) {
        inputs.push_back(
            at::randn({ends.back(), heads, dim}, at::device(at::kCUDA).dtype(at::kBFloat16)));
        inputs.back().set_requires_grad(true);
      }
      const at::Tensor out = attention(inputs[0], inputs[1], inputs[2], pattern,
                                       {.sequences = packed_sequences(cu, cu), .max_len = 2600});
      std::vector<at::Tensor> parts;
      for (size_t d = 0; d + 1 < ends.size(); ++d) {
        if (ends[d] == ends[d + 1]) continue;
        const auto rows = [&](size_t i) {
          return inputs[i].slice(0, ends[d], ends[d + 1]).transpose(0, 1).unsqueeze(0);
        };
        parts.push_back(attention(rows(0), rows(1), rows(2), pattern).squeeze(0).transpose(0, 1));
      }
      const at::Tensor want = at::cat(parts);
      const at::Tensor dout = at::randn_like(out);
      const auto grads = torch::autograd::grad({out}, inputs, {dout});
      const auto wanted = torch::autograd::grad({want}, inputs, {dout});
      EXPECT_LT(relative_error(out, want), 5e-3);
      for (size_t i = 0; i < 3; ++i) EXPECT_LT(relative_error(grads[i], wanted[i]), 1e-2) << i;
    }
  }
}

// Forward and backward, recorded once, of documents that begin and end elsewhere each time.
TEST_F(CudaAttention, ACapturedGraphTakesNewDocuments) {
  const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool();
  const c10::cuda::CUDAStreamGuard guard(stream);
  for (const char* text : {"dense", "local(32) | strided(32)", "block(64)"}) {
    SCOPED_TRACE(text);
    const Pattern pattern = Pattern::parse(text);
    const auto values = [](int64_t heads) {
      return at::randn({700, heads, 64}, at::device(at::kCUDA).dtype(at::kBFloat16));
    };
    const at::Tensor q = values(4), k = values(2), v = values(2), dout = values(4);
    const auto call = [&](const at::Tensor& cu) -> std::vector<at::Tensor> {
      const AttentionOptions options{
          .deterministic = true, .sequences = packed_sequences(cu, cu), .max_len = 600};
      const auto [out, lse] = ops::attention_forward(q, k, v, pattern, options);
      const auto grads = ops::attention_backward({dout}, q, k, v, out, lse, pattern, options);
      return {out, lse, grads.q, grads.k, grads.v};
    };
    const at::Tensor cu = on_gpu({0, 600, 601, 650, 700});
    call(cu);
    at::cuda::CUDAGraph graph;
    graph.capture_begin();
    const std::vector<at::Tensor> recorded = call(cu);
    graph.capture_end();
    for (const std::vector<int>& ends :
         {std::vector<int>{0, 1, 2, 129, 700}, {40, 168, 168, 295, 424}, {5, 5, 5, 5, 5}}) {
      cu.copy_(on_gpu(ends));
      graph.replay();
      stream.synchronize();
      const std::vector<at::Tensor> want = call(on_gpu(ends));
      for (size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(at::equal(recorded[i], want[i])) << i;
    }
  }
}

TEST_F(CudaAttention, AutocastRunsFloat32AsBFloat16) {
  const at::Tensor q = random(2, 100, 64, at::kFloat);
  at::autocast::set_autocast_enabled(at::kCUDA, true);
  at::autocast::set_autocast_dtype(at::kCUDA, at::kBFloat16);
  const at::Tensor out = attention(q, q, q, Pattern::parse("dense"));
  at::autocast::set_autocast_enabled(at::kCUDA, false);
  EXPECT_EQ(out.scalar_type(), at::kBFloat16);
}

}  // namespace
}  // namespace lace::test
