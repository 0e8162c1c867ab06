#include "core/ticks.h"

#include <cmath>

#include <gtest/gtest.h>

namespace lace {
namespace {

TEST(Ticks, AreRoundAndWithin) {
  EXPECT_EQ(round_ticks(0, 10, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(round_ticks(0, 1, 5).size(), 6u);
  for (const double high : {1e-9, 0.37, 8.0, 5412.0, 1e15}) {
    const std::vector<double> ticks = round_ticks(0, high, 5);
    EXPECT_GE(ticks.size(), 3u);
    EXPECT_LE(ticks.size(), 7u);
    EXPECT_LE(ticks.back(), high * (1 + 1e-6));
    EXPECT_FALSE(std::signbit(ticks.front()));
  }
  EXPECT_EQ(round_ticks(3, 3, 5), std::vector<double>{3});
  EXPECT_EQ(round_ticks(0, INFINITY, 5).size(), 1u);
}

}  // namespace
}  // namespace lace
