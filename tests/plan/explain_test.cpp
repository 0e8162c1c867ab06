#include "plan/explain.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lace/error.h"
#include "lace/pattern.h"

#include "pattern/random_patterns.h"
#include "plan/explain_svg.h"

namespace lace {
namespace {

TEST(Explain, KnownFiguresOfFixed) {
  const Pattern pattern = Pattern::parse("block(128) | summary(128, 32)");
  const Explanation all = explain({pattern}, 8, 12288, {128, 128});
  EXPECT_EQ(all.mean_keys, 1584.5);
  EXPECT_EQ(all.max_keys, 3168);
  EXPECT_EQ(all.forward.live_pairs, int64_t{8} * 12288 * 3169 / 2);
  EXPECT_EQ(all.transposed.live_pairs, all.forward.live_pairs);
  EXPECT_EQ(all.dense_pairs, int64_t{8} * 12288 * 12289 / 2);
  EXPECT_LT(waste(all.forward.computed_pairs, all.forward.live_pairs), 1.08);
  EXPECT_EQ(all.reach.layers, 2);
  EXPECT_TRUE(all.reach.exact);
  EXPECT_EQ(all.layers.size(), 1u);
  EXPECT_EQ(all.layers[0].groups, 1);
  int64_t key_tiles = 0;
  for (const PassFigures& pass : all.layers[0].forward.passes) {
    EXPECT_EQ(pass.heads, 8);
    key_tiles += pass.key_tiles;
  }
  EXPECT_EQ(key_tiles, all.forward.key_tiles);
}

TEST(Explain, HeadsAndLayersAddUp) {
  const Pattern local8 = local(8), dense1 = dense();
  const Explanation mixed = explain({heads({{1, local8}, {3, dense1}})}, 4, 100, {16, 16});
  const Explanation first = explain({local8}, 1, 100, {16, 16});
  const Explanation second = explain({dense1}, 3, 100, {16, 16});
  EXPECT_EQ(mixed.forward.live_pairs, first.forward.live_pairs + second.forward.live_pairs);
  EXPECT_EQ(mixed.forward.computed_pairs,
            first.forward.computed_pairs + second.forward.computed_pairs);
  EXPECT_EQ(mixed.max_keys, 100);
  EXPECT_EQ(mixed.layers[0].groups, 2);

  const Explanation stack = explain({local8, dense1}, 1, 100, {16, 16});
  EXPECT_EQ(stack.forward.live_pairs, 100 * 8 - 28 + 5050);
  EXPECT_EQ(stack.mean_keys, (7.72 + 50.5) / 2);
  EXPECT_EQ(stack.dense_pairs, 2 * 5050);
  EXPECT_EQ(stack.reach.layers, 2);
}

// Of more than 2²² blocks drawn one head stands for all, else none does.
TEST(Explain, HeadsOfManyDrawsCountAsOne) {
  const Pattern pattern = Pattern::parse("heads(1*local(5), 3*local(5) | random(3, 1, 7))");
  constexpr int64_t kLength = 1 << 18;
  const Explanation one = explain({pattern}, 4, kLength, {64, 64});
  EXPECT_FALSE(one.one_draw);
  EXPECT_EQ(one.layers[0].groups, 4);
  EXPECT_GT(one.forward.runs, 0);
  const Explanation many = explain({pattern}, 8, kLength, {64, 64});
  EXPECT_TRUE(many.one_draw);
  EXPECT_EQ(many.layers[0].groups, 7);
  EXPECT_EQ(many.forward.runs, 0);
  EXPECT_NEAR(static_cast<double>(many.forward.live_pairs),
              2 * static_cast<double>(one.forward.live_pairs), 1000);
  EXPECT_NEAR(static_cast<double>(many.transposed.computed_pairs),
              2 * static_cast<double>(one.transposed.computed_pairs),
              0.001 * static_cast<double>(one.transposed.computed_pairs));
  EXPECT_EQ(many.forward.live_pairs, many.transposed.live_pairs);
  EXPECT_EQ(many.max_keys, one.max_keys);
}

TEST(Explain, KeyCountsEqualAttends) {
  std::mt19937_64 rng(17);
  for (int round = 0; round < 300; ++round) {
    const Pattern pattern = testing::random_pattern(rng, 2);
    const int64_t n = testing::pick(rng, 1, 120);
    const BoundPattern bound = pattern.bind(4, n, n);
    const auto side = [&] { return static_cast<int32_t>(testing::pick(rng, 4, 32)); };
    const Plan plan = compile(bound, {side(), side()}, false);
    for (int64_t group = 0; group < bound.groups(); ++group) {
      const std::vector<int64_t> counts = key_counts(plan, group);
      for (int64_t i = 0; i < n; ++i) {
        int64_t live = 0;
        for (int64_t j = 0; j < n; ++j) live += bound.attends(bound.group_head(group), i, j);
        ASSERT_EQ(counts[static_cast<size_t>(i)], live)
            << pattern.to_string() << " n=" << n << " i=" << i;
      }
    }
  }
}

TEST(Explain, AMillionPositions) {
  const int64_t n = 1 << 20;
  const auto begin = std::chrono::steady_clock::now();
  const Explanation strided = explain({local(1024) | lace::strided(1024)}, 1, n, {128, 128});
  // local: 1024 keys but for the first rows; strided: i / 1024 more, the query itself counted once.
  const int64_t pairs = n * 1024 - 1024 * 1023 / 2 + 1024 * (1024 * 1023 / 2);
  EXPECT_EQ(strided.forward.live_pairs, pairs);
  EXPECT_EQ(strided.max_keys, 1024 + 1023);
  EXPECT_EQ(strided.reach.layers, 2);
  EXPECT_FALSE(strided.reach.exact);
  const Explanation fixed = explain({block(1024) | summary(1024, 32)}, 1, n, {128, 128});
  EXPECT_EQ(fixed.max_keys, 1024 + 1023 * 32);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  EXPECT_LT(seconds.count(), 60) << "nothing here may grow with n²";
}

TEST(Explain, PictureOfASmallPatternIsThePattern) {
  const BoundPattern bound = bidirectional(local(3) | strided(5)).bind(2, 15, 15);
  const Picture grid = picture(bound, 1, 15, 15);
  for (int64_t i = 0; i < 15; ++i) {
    for (int64_t j = 0; j < 15; ++j) EXPECT_EQ(grid.at(i, j), bound.attends(1, i, j) ? 1 : 0);
  }
}

TEST(Explain, PictureOfALongPatternShowsDensities) {
  const BoundPattern bound = (sinks(256) | local(256)).bind(1, 4096, 4096);
  const Picture grid = picture(bound, 0, 16, 16);
  for (int64_t row = 0; row < 16; ++row) {
    EXPECT_EQ(grid.at(row, 0), 1);
    EXPECT_EQ(grid.at(row, row), 1);
    for (int64_t column = 1; column + 1 < row; ++column) EXPECT_EQ(grid.at(row, column), 0);
    for (int64_t column = row + 1; column < 16; ++column) EXPECT_EQ(grid.at(row, column), 0);
  }
  const double between = grid.at(8, 7);
  EXPECT_GT(between, 0.3);
  EXPECT_LT(between, 0.7);
  EXPECT_EQ(picture(bound, 0, 1, 1, 4095).at(0, 0), 1);
  EXPECT_THROW(picture(bound, 0, 0, 16), Error);
  EXPECT_THROW(picture(bound, 0, 1, 2, 4095), Error);
  EXPECT_THROW(picture(bound, 0, 16, 4097), Error);
}

size_t occurrences(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(ExplainSvg, DrawsFigure3) {
  const std::string svg =
      explain_svg({heads({{1, local(6)}, {1, strided(6)}}), block(6) | summary(6, 1)}, 2, 36);
  EXPECT_EQ(svg.rfind("<svg ", 0), 0u);
  EXPECT_EQ(svg.substr(svg.size() - 7), "</svg>\n");
  EXPECT_EQ(occurrences(svg, "<g "), occurrences(svg, "</g>"));
  EXPECT_EQ(occurrences(svg, "keys of query 27, rows of 6"), 2u);  // local has no stride
  EXPECT_EQ(occurrences(svg, "layer 0, head 0"), 1u);
  EXPECT_EQ(occurrences(svg, "layer 0, head 1"), 1u);
  EXPECT_EQ(occurrences(svg, "layer 1, head 0"), 1u);
  for (const char* label : {">local(6)<", ">strided(6)<", ">block(6)<", ">summary(6, 1)<"}) {
    EXPECT_EQ(occurrences(svg, label), 1u) << label;
  }
}

TEST(ExplainSvg, StaysSmallForLongSequences) {
  const int64_t n = 1 << 20;
  const std::string svg = explain_svg({local(1024) | strided(1024)}, 8, n);
  EXPECT_LT(svg.size(), 2'000'000u);
  const std::string many = explain_svg({random(3, 64, 1)}, 12, 4096);
  EXPECT_EQ(occurrences(many, "4 more heads not drawn"), 1u);
}

TEST(Explain, PictureOfACornerIsThatPartOfThePattern) {
  const BoundPattern bound = (local(3) | strided(5)).bind(1, 100, 100);
  const Picture grid = picture(bound, 0, 20, 20, 80);
  for (int64_t i = 0; i < 20; ++i) {
    for (int64_t j = 0; j < 20; ++j) {
      EXPECT_EQ(grid.at(i, j), bound.attends(0, 80 + i, 80 + j) ? 1 : 0);
    }
  }
  const auto corner = [](const char* text, int64_t n) {
    return corner_begin(Pattern::parse(text).bind(1, n, n).expr(0), n);
  };
  EXPECT_EQ(corner("local(128) | strided(128)", 12288), 12288 - 512);
  EXPECT_EQ(corner("local(128) | strided(128)", 1024), 0);
  EXPECT_EQ(corner("strided(6)", 36), 0);
  EXPECT_EQ(corner("local(6)", 4096), 0);
}

TEST(ExplainSvg, ShowsTheLastRowsOfALongSequence) {
  const std::string svg = explain_svg({local(128) | strided(128)}, 8, 12288);
  EXPECT_EQ(occurrences(svg, "the last 512 positions"), 1u);
  EXPECT_EQ(occurrences(explain_svg({local(6) | strided(6)}, 8, 36), "the last"), 0u);
}

TEST(Explain, RowLengthIsTheFirstStride) {
  const auto length = [](const char* text, int64_t n) {
    return row_length(Pattern::parse(text).bind(1, n, n).expr(0), n);
  };
  EXPECT_EQ(length("local(128) | strided(96)", 12288), 96);
  EXPECT_EQ(length("block(128) | summary(64, 32)", 12288), 128);
  EXPECT_EQ(length("sinks(4) | dilated(8, 16)", 12288), 16);
  EXPECT_EQ(length("fixed(128, 32, 4)", 12288), 128);
  EXPECT_EQ(length("local(128)", 12288), 0);
  EXPECT_EQ(length("strided(128)", 128), 0);
  EXPECT_EQ(length("strided(1) | strided(8)", 128), 8);
}

}  // namespace
}  // namespace lace
