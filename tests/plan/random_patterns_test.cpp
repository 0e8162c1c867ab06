#include <array>
#include <random>
#include <string>

#include <gtest/gtest.h>

#include "plan/check.h"

namespace lace::testing {
namespace {

// Random trees of | and & over all atoms but mask(file).
class PatternMaker {
 public:
  explicit PatternMaker(uint32_t seed) : random_(seed) {}

  int64_t below(int64_t bound) {
    return std::uniform_int_distribution<int64_t>(0, bound - 1)(random_);
  }
  int64_t between(int64_t least, int64_t most) { return least + below(most - least + 1); }

  std::string tree(int64_t k_len, int depth) {
    if (depth == 0 || below(3) == 0) return atom(k_len);
    const std::string op = below(2) == 0 ? " | " : " & ";
    std::string text = "(";
    text += tree(k_len, depth - 1);
    for (int64_t more = between(1, 2); more > 0; --more) text += op + tree(k_len, depth - 1);
    return text + ")";
  }

 private:
  std::string call(const std::string& name, std::initializer_list<int64_t> args) {
    std::string text = name;
    char before = '(';
    for (const int64_t arg : args) {
      text += before + std::to_string(arg);
      before = ',';
    }
    return text + ")";
  }

  // Mostly small, now and then past the length.
  int64_t length(int64_t k_len) {
    return below(4) == 0 ? between(1, k_len + 8) : between(1, std::min<int64_t>(k_len, 17));
  }

  std::string atom(int64_t k_len) {
    switch (below(11)) {
      case 0:
        return "dense";
      case 1:
        return call("local", {length(k_len)});
      case 2:
        return call("local", {between(1, 4), between(1, 9)});
      case 3:
        return call("block", {length(k_len)});
      case 4:
        return call("strided", {length(k_len)});
      case 5: {
        const int64_t period = length(k_len), columns = between(1, period);
        return call("summary", {period, columns, below(period / columns)});
      }
      case 6:
        return call("dilated", {length(k_len), between(1, 9)});
      case 7: {
        const int64_t first = below(k_len), last = between(first, std::min(k_len - 1, first + 5));
        return "global{" + std::to_string(below(k_len)) + ", " + std::to_string(first) + ".." +
               std::to_string(last) + ", -1}";
      }
      case 8:
        return call("global", {between(1, 6)});
      case 9:
        return call("sinks", {between(1, 9)});
      default:
        return call("random", {between(1, 3), between(1, 12), below(1000)});
    }
  }

  std::mt19937 random_;
};

constexpr std::array<TileShape, 8> kTiles = {
    {{5, 7}, {16, 16}, {64, 64}, {16, 32}, {8, 24}, {13, 4}, {3, 3}, {32, 16}}};

void check_random(uint32_t seed, int count, bool causal) {
  PatternMaker maker(seed);
  int failures = 0;
  for (int n = 0; n < count && failures < 5; ++n) {
    const int64_t k_len = maker.between(1, maker.below(4) == 0 ? 100 : 50);
    const int64_t q_len = maker.below(2) == 0 ? k_len : maker.between(1, k_len);
    std::string text = maker.tree(k_len, static_cast<int>(maker.between(0, 3)));
    if (!causal) text = "bidirectional(" + text + ")";
    const TileShape tile = kTiles[static_cast<size_t>(maker.below(kTiles.size()))];
    const std::string errors = check_pattern(text, 1, q_len, k_len, tile);
    EXPECT_EQ(errors, "");
    failures += !errors.empty();
  }
}

// Each pattern is compiled forward and transposed.
TEST(RandomPlans, CausalAreExact) { check_random(1, 24000, true); }
TEST(RandomPlans, TwoSidedAreExact) { check_random(2, 16000, false); }

}  // namespace
}  // namespace lace::testing
