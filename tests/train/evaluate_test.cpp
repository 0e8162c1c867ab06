#include <cmath>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "train/batch.h"
#include "train/small_recipe.h"

namespace lace {
namespace {

class EvaluateTest : public testing::Test {
 protected:
  EvaluateTest() : model_(small_recipe().model) {
    const torch::NoGradGuard no_grad;  // W_out starts at 0: every byte would score alike
    torch::manual_seed(5);
    for (const NamedParameter& p : model_.parameters())
      if (p.name == "out.weight") p.tensor.normal_(0, 0.5);
  }

  // Nats of byte `position`, read in the window that begins at `begin`.
  double nats(const ByteStream& stream, int64_t begin, int64_t position) {
    const at::Tensor window = train::read_windows(stream, {begin}, position - begin + 1);
    return model_.nats(window)[0][position - begin].item<double>();
  }

  SparseTransformer model_;
};

TEST_F(EvaluateTest, ScoresEachByteOnceWithItsContext) {
  constexpr int64_t kWindow = 64, kContext = 40, kAdvance = kWindow - kContext;
  for (const int64_t size : {50, 64, 65, 150, 160}) {
    const ByteStream stream = small_text(static_cast<size_t>(size));
    double expected = 0;
    for (int64_t i = 0; i < size; ++i) {
      const int64_t window = i < kWindow ? 0 : (i - kWindow) / kAdvance + 1;
      expected += nats(stream, window * kAdvance, i);
    }
    int64_t last = 0;
    const EvalResult result = evaluate(model_, stream, {.min_context = kContext, .batch = 3},
                                       [&](int64_t done, int64_t total) { last = total - done; });
    EXPECT_EQ(result.bytes, size);
    EXPECT_EQ(last, 0);
    EXPECT_NEAR(result.bits_per_byte, expected / std::log(2) / static_cast<double>(size), 1e-4)
        << size;
  }
}

TEST_F(EvaluateTest, BatchesDoNotMatter) {
  const ByteStream stream = small_text(500);
  const double one = evaluate(model_, stream, {.min_context = 0, .batch = 1}).bits_per_byte;
  const double many = evaluate(model_, stream, {.min_context = 0, .batch = 5}).bits_per_byte;
  EXPECT_NEAR(one, many, 1e-5);
}

TEST_F(EvaluateTest, RefusesWhatMakesNoSense) {
  EXPECT_THROW(evaluate(model_, ByteStream(), {}), Error);
  EXPECT_THROW(evaluate(model_, small_text(9), {.min_context = 64}), Error);
  EXPECT_THROW(evaluate(model_, small_text(9), {.batch = 0}), Error);
}

}  // namespace
}  // namespace lace
