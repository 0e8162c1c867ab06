#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>
#include <string_view>
#include <utility>

#include <gtest/gtest.h>

#include "lace/error.h"

#include "kernels/cases.h"
#include "kernels/compare.h"
#include "kernels/cuda/cuda_machine.h"
#include "kernels/cuda/portable/launch.h"

namespace lace::test {
namespace {

// Fresh in every run; LACE_TEST_SEED repeats one.
uint64_t seed_of_run() {
  static const uint64_t seed = [] {
    const char* given = std::getenv("LACE_TEST_SEED");
    return given ? std::strtoull(given, nullptr, 10) : std::random_device()();
  }();
  return seed;
}

// Packed documents whose lengths lie around those of tiles, one long beside short ones, with NaN
// between them.
Case documents(const std::string& pattern, int64_t dim, const std::vector<int32_t>& lengths) {
  Case made{.pattern = pattern,
            .dtype = dim == 64 ? DType::kBFloat16 : DType::kFloat16,
            .batch = static_cast<int64_t>(lengths.size()),
            .heads = pattern.starts_with("heads") ? 4 : 2,
            .kv_heads = dim == 64 ? 1 : 2,
            .qk_dim = dim,
            .v_dim = dim,
            .layout = Layout::kRowsFirst,
            .dlse = dim == 64,
            .packed = true};
  int32_t row = 1;
  for (const int32_t length : lengths) {
    made.sequences.push_back({{0, length, row}, {0, length, row}});
    row += length + (length % 2);
    made.plan_len = std::max<int64_t>(made.plan_len, length);
  }
  made.plan_len += 60;
  made.q_len = made.k_len = row + 2;
  return made;
}

// Query heads of a key head whose items are apart in backward: they are not alike (with dq at once,
// whose gradients repeat, and with sums), or L2 has no room for what all of them pass over.
void add_heads_apart(std::vector<Case>& cases) {
  for (const char* pattern :
       {"heads(1*block(128), 3*block(64))", "heads(1*dense, 3*local(100))", "dense"}) {
    const bool many = std::string_view(pattern) == "dense";
    for (const int64_t dim : {64, 128}) {
      Case made = documents(pattern, dim, {300, 1, 129});
      made.heads = many ? 256 * 64 / dim : 4, made.kv_heads = 1;
      cases.push_back(made);
      cases.push_back({.pattern = pattern,
                       .dtype = dim == 64 ? DType::kBFloat16 : DType::kFloat16,
                       .heads = made.heads,
                       .kv_heads = 1,
                       .q_len = 309,
                       .k_len = 309,
                       .qk_dim = dim,
                       .v_dim = dim});
    }
  }
}

void add_documents(std::vector<Case>& cases) {
  for (const char* pattern :
       {"dense", "local(100) | sinks(4)", "local(64) | strided(64)",
        "block(128) | summary(128, 32)", "fixed(64, 16, 2)", "block(128)", "strided(96)",
        "random(2, 64, 7) | local(48)", "heads(3*local(64) | strided(32), 1*dense)",
        "bidirectional(local(130) | global(3))"}) {
    for (const int64_t dim : {64, 128}) {
      cases.push_back(documents(pattern, dim, {127, 1, 128, 0, 129, 64}));
      cases.push_back(documents(pattern, dim, {5, 300, 3, 0, 40, 150, 1}));
    }
  }
  cases.push_back(documents("local(64) | strided(64)", 64, std::vector<int32_t>(20, 65)));
  // Columns that only one of both has, within tiles and beyond.
  for (const auto& [qk_dim, v_dim] : {std::pair(40, 128), {128, 64}, {16, 72}}) {
    cases.push_back(documents("block(128) | summary(128, 32)", 128, {127, 1, 300, 0, 129}));
    cases.back().qk_dim = qk_dim, cases.back().v_dim = v_dim;
  }
}

// head_dims past 128: full and half slices of 64 columns, and slices that one of both lacks; one
// pass and several, an item for all heads of a key head and one for each, dead tiles, rows that no
// pass covers; documents, padding, queries anywhere in the keys.
void add_wide(std::vector<Case>& cases) {
  std::vector<Case> padded = all_cases();
  std::erase_if(padded, [](const Case& problem) {
    return problem.sequences.empty() || problem.packed || problem.qk_dim != problem.v_dim;
  });
  for (Case& problem : padded) {
    if (problem.dtype == DType::kFloat32) problem.dtype = DType::kFloat16;
    problem.qk_dim = 192, problem.v_dim = 256;
    cases.push_back(problem);
  }
  for (const auto& [qk_dim, v_dim] :
       {std::pair(192, 192), {256, 256}, {192, 128}, {200, 256}, {136, 64}, {64, 200}}) {
    for (const char* pattern :
         {"dense", "local(150)", "fixed(64, 16, 2)", "local(40) | strided(40)", "strided(96)",
          "heads(3*local(64) | strided(32), 1*dense)", "bidirectional(local(130) | global(3))"}) {
      const bool bf16 = qk_dim != 200;
      const DType dtype = bf16 ? DType::kBFloat16 : DType::kFloat16;
      const int64_t kv_heads = qk_dim == 256 ? 4 : 2;
      cases.push_back({.pattern = pattern,
                       .dtype = dtype,
                       .batch = 2,
                       .heads = 4,
                       .kv_heads = kv_heads,
                       .q_len = 205,
                       .k_len = 270,
                       .qk_dim = qk_dim,
                       .v_dim = v_dim,
                       .layout = Layout::kRowsFirst,
                       .dlse = bf16});
      for (const std::vector<int32_t>& lengths :
           {std::vector<int32_t>{127, 1, 128, 0, 129, 64}, {5, 300, 3, 0, 40, 150, 1}}) {
        Case made = documents(pattern, qk_dim, lengths);
        made.dtype = dtype, made.v_dim = v_dim;
        if (qk_dim == 256) made.kv_heads = 1, made.dlse = true;
        cases.push_back(made);
      }
    }
  }
}

// Softcaps on tiles of every size, with full, cut and dead ones: one pass and several, dq at once
// and from sums, documents; caps that hardly show, that bend, and that most logits reach.
void add_capped(std::vector<Case>& cases) {
  for (const char* pattern :
       {"dense", "local(150)", "block(128)", "strided(96)", "local(64) | strided(64)",
        "heads(3*local(64) | strided(32), 1*dense)", "bidirectional(local(130) | global(3))"}) {
    for (const int64_t dim : {64, 128, 256}) {
      const double softcap = dim == 64 ? 1 : dim == 128 ? 20 : 0.2;
      cases.push_back({.pattern = pattern,
                       .dtype = dim == 128 ? DType::kFloat16 : DType::kBFloat16,
                       .heads = 4,
                       .kv_heads = 2,
                       .q_len = 309,
                       .k_len = 370,
                       .qk_dim = dim,
                       .v_dim = dim,
                       .magnitude = dim == 128 ? 2.0 : 1.0,
                       .softcap = softcap,
                       .dlse = dim == 64});
      Case made = documents(pattern, dim, {127, 1, 300, 0, 129, 64});
      made.softcap = softcap;
      cases.push_back(made);
    }
  }
}

// Masks of blocks beside the plan: of one element, of less than a tile, of tiles and of more; of
// all heads or each its own; where nothing is live, or nearly all; one pass and several, dq at once
// and from sums; tiles in steps, of columns, of residue classes, of lists; fewer queries than keys;
// documents.
void add_blocks(std::vector<Case>& cases) {
  const char* const patterns[] = {"dense",
                                  "bidirectional(dense)",
                                  "local(150)",
                                  "block(128)",
                                  "strided(96)",
                                  "local(64) | strided(64)",
                                  "block(128) | summary(128, 32)",
                                  "random(2, 64, 7) | local(48)",
                                  "heads(3*local(64) | strided(32), 1*dense)",
                                  "bidirectional(local(130) | global(3))"};
  int count = 0;
  for (const char* pattern : patterns) {
    for (const int64_t size : {1, 16, 24, 64, 100, 128, 256}) {
      for (const int64_t dim : {64, 128, 256}) {
        ++count;
        const double share = count % 5 == 0 ? 0.02 : count % 5 == 1 ? 0.95 : 0.4;
        const CaseBlocks blocks{size, count % 2 == 0 ? 4 : 1, count % 3 == 0 ? 1 : 0, share};
        const bool fewer = count % 4 >= 2;
        cases.push_back({.pattern = pattern,
                         .dtype = count % 2 == 0 ? DType::kFloat16 : DType::kBFloat16,
                         .batch = 1 + count % 2,
                         .heads = 4,
                         .kv_heads = count % 3 == 0 ? 4 : 2,
                         .q_len = fewer ? 309 : 389,
                         .k_len = 389,
                         .qk_dim = dim,
                         .v_dim = dim == 128 && count % 4 == 0 ? 64 : dim,
                         .layout = count % 3 == 1 ? Layout::kRowsFirst : Layout::kContiguous,
                         .softcap = count % 7 == 0 ? 1.0 : 0.0,
                         .dlse = count % 2 == 0,
                         .blocks = blocks});
        if (size == 16 || size == 100 || size == 128) {
          Case made = documents(pattern, dim, {127, 1, 300, 0, 129, 64});
          made.blocks = blocks;
          made.blocks.heads = blocks.heads == 1 ? 1 : made.heads;
          cases.push_back(made);
        }
      }
    }
  }
  // More tiles than a block lists at once.
  for (const int64_t size : {40, 128}) {
    cases.push_back({.dtype = DType::kFloat16,
                     .heads = 1,
                     .kv_heads = 1,
                     .q_len = 100,
                     .k_len = 128 * 300,
                     .qk_dim = 64,
                     .v_dim = 64,
                     .blocks = {size, 1, 0, 0.3}});
  }
}

// The CPU kernels' cases of head_dims that GPU kernels take, float32 as float16.
std::vector<Case> cuda_cases() {
  std::vector<Case> cases = all_cases();
  std::erase_if(cases, [](const Case& problem) {
    const auto is_other = [](int64_t dim) { return dim % 8 != 0 || dim > 256; };
    return problem.dtype == DType::kFloat16 || is_other(problem.qk_dim) || is_other(problem.v_dim);
  });
  for (Case& problem : cases) {
    if (problem.dtype == DType::kFloat32) problem.dtype = DType::kFloat16;
  }
  add_documents(cases);
  add_heads_apart(cases);
  add_wide(cases);
  add_capped(cases);
  add_blocks(cases);
  return cases;
}

class CudaAgreement : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (!no_gpu().empty()) GTEST_SKIP() << "no GPU: " << no_gpu();
  }
};

// The tiles that `kernel` is tried with.
std::vector<KernelTiles> tiles_of(const Kernel& kernel, const Case& problem,
                                  const AttentionShape& shape) {
  const KernelTiles own = kernel.tiles(shape);
  if (kernel.name == "cuda_portable") {
    // A case that asks for tiles gets them.
    const KernelTiles asked{problem.tile, problem.tile};
    return {problem.tile == TileShape{64, 64} ? own : asked};
  }
  // Those of forward where a query sees many keys, and where it sees few: not with a softcap.
  if (shape.qk_dim <= 64 && shape.v_dim <= 64 && !shape.softcap) {
    return {own, {{192, 128}, own.transposed}, {{128, 64}, own.transposed}};
  }
  return {own};
}

// A case's results by the reference, whatever the tiles.
struct Expected {
  explicit Expected(const Case& shape) {
    const auto threads = make_thread_pool(4);
    const Kernel& reference = find_kernel("reference");
    const Problem problem(shape, seed_of_run());
    forward = problem.forward(reference, *threads);
    backward = problem.backward(reference, *threads, forward);
  }
  Forward forward;
  Backward backward;
};

void expect_agreement(const Kernel& kernel, const Case& shape, const KernelTiles& tiles,
                      const Expected& expected) {
  const auto threads = make_thread_pool(4);
  const Problem problem(shape, seed_of_run(), tiles);
  const auto& [forward, backward] = expected;
  const Tolerances allowed = gpu_tolerances(shape.dtype, problem.max_logit());
  CudaMachine machine;
  const Forward got = problem.forward(kernel, *threads, machine);
  expect_close(got, forward, allowed);
  const Forward again = problem.forward(kernel, *threads, machine);
  EXPECT_TRUE(again.out == got.out && again.lse == got.lse) << "forward does not repeat";
  // Backward takes the kernel's own tiles.
  if (kernel.name == "cuda_sm90" && tiles.forward != kernel.tiles(problem.shape()).forward) return;
  const Backward gradients = problem.backward(kernel, *threads, forward, machine);
  expect_close(gradients, backward, allowed);
  const Backward repeated = problem.backward(kernel, *threads, forward, machine);
  EXPECT_TRUE(repeated.dq == gradients.dq && repeated.dk == gradients.dk &&
              repeated.dv == gradients.dv)
      << "deterministic backward does not repeat";
  CudaMachine free_order(false);
  SCOPED_TRACE("not deterministic");
  expect_close(problem.backward(kernel, *threads, forward, free_order), backward, allowed);
}

TEST_P(CudaAgreement, WithReference) {
  const Case& shape = GetParam();
  const Expected expected(shape);
  int compared = 0;
  for (const Kernel& kernel : kernels()) {
    if (kernel.device != Device::kCuda) continue;
    const AttentionShape asked = Problem(shape, 1).shape();
    if (!kernel.unavailable().empty() || !kernel.unsupported(asked).empty()) continue;
    for (const KernelTiles& tiles : tiles_of(kernel, shape, asked)) {
      SCOPED_TRACE(concat(kernel.name, ", tiles of ", tiles.forward.owners, " queries x ",
                          tiles.forward.others, " keys, LACE_TEST_SEED=", seed_of_run()));
      expect_agreement(kernel, shape, tiles, expected);
      ++compared;
    }
  }
  EXPECT_GT(compared, 0);
}

INSTANTIATE_TEST_SUITE_P(Kernels, CudaAgreement, testing::ValuesIn(cuda_cases()),
                         [](const auto& info) { return info.param.name(); });

// Numbers of a document that are not finite are its own affair: of the others every bit stays.
void expect_apart(const Kernel& kernel, const Case& shape) {
  const auto threads = make_thread_pool(4);
  const std::vector<size_t> spoilt{1, 3};
  const auto is_spoilt = [&](int64_t row) {
    return std::any_of(spoilt.begin(), spoilt.end(), [&](size_t s) {
      const Extent& extent = shape.sequences[s].q;
      return extent.row <= row && row < extent.row + extent.end;
    });
  };
  const auto run = [&](double value, bool deterministic) {
    Problem problem(shape, 3, kernel.tiles(Problem(shape, 1).shape()));
    for (Tensor* tensor : {&problem.q(), &problem.k(), &problem.v(), &problem.dout()}) {
      for (int64_t r = 0; r < shape.q_len; ++r) {
        if (!is_spoilt(r)) continue;
        for (int64_t h = 0; h < tensor->size(1); ++h) {
          tensor->set(0, h, r, r % shape.qk_dim, value);
        }
      }
    }
    CudaMachine machine(deterministic);
    Forward forward = problem.forward(kernel, *threads, machine);
    Backward backward = problem.backward(kernel, *threads, forward, machine);
    return std::pair(std::move(forward), std::move(backward));
  };
  // Of [heads, rows, columns] those of other documents.
  const auto others = [&](const std::vector<double>& values, int64_t columns) {
    std::vector<double> found;
    for (size_t i = 0; i < values.size(); ++i) {
      const int64_t row = static_cast<int64_t>(i) / columns % shape.q_len;
      if (!is_spoilt(row)) found.push_back(values[i]);
    }
    return found;
  };
  const auto [forward, backward] = run(0.5, true);
  const auto [forward_nan, backward_nan] = run(NAN, true);
  const int64_t dim = shape.qk_dim;
  EXPECT_TRUE(others(forward.out, dim) == others(forward_nan.out, dim));
  EXPECT_TRUE(others(forward.lse, 1) == others(forward_nan.lse, 1));
  EXPECT_TRUE(others(backward.dq, dim) == others(backward_nan.dq, dim));
  EXPECT_TRUE(others(backward.dk, dim) == others(backward_nan.dk, dim));
  EXPECT_TRUE(others(backward.dv, dim) == others(backward_nan.dv, dim));
  const auto [again, in_any_order] = run(NAN, false);
  for (const auto* gradient : {&in_any_order.dq, &in_any_order.dk, &in_any_order.dv}) {
    const std::vector<double> values = others(*gradient, dim);
    EXPECT_TRUE(std::none_of(values.begin(), values.end(), [](double x) { return std::isnan(x); }));
  }
  EXPECT_TRUE(std::isnan(forward_nan.out[static_cast<size_t>(shape.sequences[1].q.row * dim)]))
      << "the test has no NaN";
}

TEST(CudaSequences, ADocumentOfNaNSpoilsNoOther) {
  if (!no_gpu().empty()) GTEST_SKIP() << "no GPU: " << no_gpu();
  for (const char* pattern : {"dense", "local(64) | strided(64)", "block(128) | summary(128, 32)",
                              "random(2, 64, 7) | local(48)", "strided(96)"}) {
    for (const int64_t dim : {64, 128, 192, 256}) {
      const Case shape = documents(pattern, dim, {190, 130, 200, 77, 128, 1});
      for (const Kernel& kernel : kernels()) {
        if (kernel.device != Device::kCuda || !kernel.unavailable().empty()) continue;
        SCOPED_TRACE(concat(kernel.name, " ", pattern, " head_dim ", dim));
        expect_apart(kernel, shape);
      }
    }
  }
}

// What GPUs with less shared memory do in backward.
TEST(CudaPortable, AgreesInLessSharedMemory) {
  if (!no_gpu().empty()) GTEST_SKIP() << "no GPU: " << no_gpu();
  const Kernel& kernel = find_kernel("cuda_portable");
  for (const int kibibytes : {99, 120, 150}) {
    for (const int64_t dim : {64, 128}) {
      const Case shape{.pattern = "local(64) | strided(64)",
                       .dtype = DType::kBFloat16,
                       .q_len = 700,
                       .k_len = 700,
                       .qk_dim = dim,
                       .v_dim = dim};
      SCOPED_TRACE(concat(kibibytes, " KiB, head_dim ", dim));
      cuda::portable::limit_tile_memory(kibibytes * 1024);
      expect_agreement(kernel, shape, kernel.tiles(Problem(shape, 1).shape()), Expected(shape));
    }
  }
  cuda::portable::limit_tile_memory(0);
}

}  // namespace
}  // namespace lace::test
