#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "lace/error.h"
#include "plan/check.h"

namespace lace::testing {
namespace {

const std::vector<std::string> kAtoms = {
    "dense",
    "local(1)",
    "local(7)",
    "local(16)",
    "local(500)",
    "local(3, 4)",
    "local(2, 11)",
    "block(1)",
    "block(8)",
    "block(13)",
    "block(300)",
    "strided(1)",
    "strided(2)",
    "strided(8)",
    "strided(31)",
    "strided(300)",
    "summary(8, 2)",
    "summary(8, 2, 3)",
    "summary(12, 5, 1)",
    "summary(5, 5)",
    "summary(200, 30)",
    "dilated(4, 3)",
    "dilated(100, 2)",
    "dilated(3, 40)",
    "global(1)",
    "global(9)",
    "global{0..3, -4..-1}",
    "global{1, 5, 9, 30..33, 70}",
    "sinks(1)",
    "sinks(4)",
    "sinks(20)",
    "random(2, 8, 1)",
    "random(3, 5, 0)",
    "random(4, 1, 7)",
    "random(1, 64, 3)",
};

const std::vector<std::string> kCompositions = {
    "local(8) | strided(8)",
    "local(16) | strided(8)",
    "local(5) | strided(9)",
    "block(8) | summary(8, 2)",
    "block(8) | summary(8, 2, 2)",
    "block(12) | summary(12, 3) | summary(10, 1)",
    "strided(5) | strided(6)",
    "strided(4) | strided(6) | strided(9)",
    "local(10) & strided(3)",
    "local(30) & summary(8, 2)",
    "strided(8) & summary(4, 1)",
    "strided(3) & block(20)",
    "strided(2) & random(2, 8, 1)",
    "dense & random(3, 7, 2)",
    "local(20) | sinks(4)",
    "local(9) | global(4)",
    "dilated(6, 4) | global{0, 50}",
    "local(3, 4) | random(2, 4, 5) | global{0..3, -4..-1}",
    "local(3, 4) | random(2, 4, 5) | strided(16)",
    "(local(12) | strided(6)) & (block(24) | sinks(3))",
    "(block(9) | summary(9, 2)) & (local(40) | strided(7))",
    "(sinks(3) | global{40}) & strided(2)",
    "random(2, 6, 1) & random(3, 4, 2)",
    "fixed(8, 2, 4)",
    "heads(2*local(8), 2*strided(8))",
    "heads(2*fixed(8, 2, 2), 2*random(2, 8, 1))",
};

const std::vector<TileShape> kTiles = {{5, 7}, {16, 16}, {16, 32}, {64, 64}, {1, 3}, {37, 20}};

struct Lengths {
  int64_t q_len, k_len;
};
const std::vector<Lengths> kLengths = {{96, 96}, {75, 75}, {41, 97}, {1, 50}, {64, 131}, {1, 1}};

void check_all(const std::vector<std::string>& patterns, bool causal) {
  for (const std::string& text : patterns) {
    const std::string pattern = causal ? text : "bidirectional(" + text + ")";
    for (const TileShape tile : kTiles) {
      for (const auto& [q_len, k_len] : kLengths) {
        // Tokens that a short sequence lacks are an error of bind().
        if (k_len < 80 && text.find('{') != std::string::npos) continue;
        EXPECT_EQ(check_pattern(pattern, 4, q_len, k_len, tile), "");
      }
    }
  }
}

TEST(Plan, CoversEveryAtomOnce) { check_all(kAtoms, true); }
TEST(Plan, CoversEveryTwoSidedAtomOnce) { check_all(kAtoms, false); }
TEST(Plan, CoversCompositionsOnce) { check_all(kCompositions, true); }
TEST(Plan, CoversTwoSidedCompositionsOnce) {
  std::vector<std::string> patterns;
  for (const std::string& text : kCompositions) {
    if (text.rfind("heads", 0) != 0) patterns.push_back(text);
  }
  check_all(patterns, false);
}

TEST(Plan, RejectsTilesThatNoKernelHas) {
  const BoundPattern pattern = dense().bind(1, 8, 8);
  EXPECT_THROW(compile(pattern, {0, 16}, false), Error);
  EXPECT_THROW(compile(pattern, {16, 4096}, false), Error);
}

}  // namespace
}  // namespace lace::testing
