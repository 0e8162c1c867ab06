#include <array>
#include <string>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "data/random.h"
#include "generate/draw.h"

namespace lace {
namespace {

class SampleTest : public testing::Test {
 protected:
  SampleTest() : model_(config()) {
    const torch::NoGradGuard no_grad;  // W_out starts at 0: every byte would be as likely
    torch::manual_seed(5);
    for (const NamedParameter& p : model_.parameters())
      if (p.name == "out.weight") p.tensor.normal_(0, 0.5);
  }

  static ModelConfig config() {
    ModelConfig c;
    c.seq_len = 32;
    c.layers = 2;
    c.d_model = 32;
    c.heads = 2;
    c.patterns = {"local(4) | strided(4)", "fixed(8, 2, 2)"};
    return c;
  }

  // The next byte after `context`, from a whole forward pass.
  uint8_t next(const std::vector<uint8_t>& context, const SampleOptions& options, int64_t index) {
    std::vector<uint8_t> padded = context;
    padded.push_back(0);
    const at::Tensor tokens =
        torch::tensor(std::vector<int64_t>(padded.begin(), padded.end())).unsqueeze(0);
    const at::Tensor logits = model_.forward(tokens)[0][-1].contiguous();
    const double unit = random_unit(random_bits(options.seed, 0, static_cast<uint64_t>(index)));
    return static_cast<uint8_t>(
        generate::draw({logits.const_data_ptr<float>(), 256}, options, unit));
  }

  SparseTransformer model_;
};

TEST_F(SampleTest, CacheGivesWhatWholePassesGive) {
  for (const size_t prompt_length : {0, 5, 31, 32, 50}) {
    const SampleOptions options{.length = 40, .temperature = 0.7, .seed = prompt_length + 3};
    std::vector<uint8_t> history;
    for (size_t i = 0; i < prompt_length; ++i) history.push_back(static_cast<uint8_t>(i * 37));
    const std::vector<uint8_t> drawn = sample(model_, history, options);
    ASSERT_EQ(drawn.size(), 40u);
    size_t begin = history.size() < 32 ? 0 : history.size() - 16;
    for (int64_t i = 0; i < 40; ++i) {
      if (history.size() - begin >= 32) begin = history.size() - 16;
      const std::vector<uint8_t> context(history.begin() + static_cast<long>(begin), history.end());
      EXPECT_EQ(drawn[static_cast<size_t>(i)], next(context, options, i)) << i;
      history.push_back(drawn[static_cast<size_t>(i)]);
    }
  }
}

TEST_F(SampleTest, SeedsRepeatAndCallbackEnds) {
  const SampleOptions options{.length = 20, .seed = 4};
  const auto first = sample(model_, {}, options);
  EXPECT_EQ(first, sample(model_, {}, options));
  EXPECT_NE(first, sample(model_, {}, {.length = 20, .seed = 5}));
  std::vector<uint8_t> seen;
  const auto ended = sample(model_, {}, options, [&](uint8_t byte) {
    seen.push_back(byte);
    return seen.size() < 7;
  });
  EXPECT_EQ(ended.size(), 7u);
  EXPECT_EQ(ended, seen);
  EXPECT_EQ(ended, std::vector<uint8_t>(first.begin(), first.begin() + 7));
  EXPECT_TRUE(sample(model_, {}, {.length = 0}).empty());
}

// Through the end of the model's positions too, where all start anew.
TEST_F(SampleTest, TogetherEachDrawsWhatItDrawsAlone) {
  const std::vector<uint8_t> prompt = {'a', 'b', 'c'};
  const SampleOptions options{.length = 50, .seed = 9};
  size_t seen = 0;
  const auto together = sample_together(model_, prompt, options, 3, [&](auto bytes) {
    EXPECT_EQ(bytes.size(), 3u);
    ++seen;
    return true;
  });
  EXPECT_EQ(seen, 50u);
  ASSERT_EQ(together.size(), 3u);
  EXPECT_EQ(together[0], sample(model_, prompt, options));
  EXPECT_NE(together[0], together[1]);
  const auto two = sample_together(model_, prompt, options, 2);
  EXPECT_EQ(two, std::vector(together.begin(), together.begin() + 2));
  EXPECT_THROW(sample_together(model_, prompt, options, 0), Error);
}

TEST_F(SampleTest, RefusesOptionsOutOfRange) {
  EXPECT_THROW(sample(model_, {}, {.length = -1}), Error);
  EXPECT_THROW(sample(model_, {}, {.temperature = -1}), Error);
  EXPECT_THROW(sample(model_, {}, {.top_k = -1}), Error);
  EXPECT_THROW(sample(model_, {}, {.top_p = 0}), Error);
  EXPECT_THROW(sample(model_, {}, {.top_p = 1.5}), Error);
}

TEST(Draw, FollowsTheSoftmaxWithItsCuts) {
  // Probabilities 0.5, 0.25, 0.125, 0.125 at temperature 1.
  const std::array<float, 4> logits = {std::log(0.25f), std::log(0.5f), std::log(0.125f),
                                       std::log(0.125f)};
  const auto shares = [&](const SampleOptions& options) {
    std::array<double, 4> count{};
    constexpr int kDraws = 4096;
    for (int i = 0; i < kDraws; ++i)
      count[static_cast<size_t>(generate::draw(logits, options, (i + 0.5) / kDraws))] +=
          1.0 / kDraws;
    return count;
  };
  const auto near = [](const std::array<double, 4>& got, const std::array<double, 4>& want) {
    for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(got[i], want[i], 1e-3) << i;
  };
  near(shares({}), {0.25, 0.5, 0.125, 0.125});
  near(shares({.temperature = 0}), {0, 1, 0, 0});
  near(shares({.temperature = 0.5}), {4 / 22.0, 16 / 22.0, 1 / 22.0, 1 / 22.0});
  near(shares({.top_k = 2}), {1 / 3.0, 2 / 3.0, 0, 0});
  near(shares({.top_k = 9}), {0.25, 0.5, 0.125, 0.125});
  near(shares({.top_p = 0.4}), {0, 1, 0, 0});
  near(shares({.top_p = 0.6}), {1 / 3.0, 2 / 3.0, 0, 0});
}

}  // namespace
}  // namespace lace
