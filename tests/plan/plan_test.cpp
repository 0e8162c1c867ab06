#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "lace/error.h"

#include "core/work_pool.h"
#include "plan/check.h"
#include "plan/terms.h"

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

// A mask file's pattern, with the mask made here: bool [heads, blocks, blocks].
Pattern masked(int64_t heads, int64_t blocks, int64_t block_size, uint32_t seed) {
  auto mask = std::make_shared<BlockMask>();
  mask->heads = heads;
  mask->blocks = blocks;
  mask->block_size = block_size;
  mask->content_hash = seed;
  std::mt19937 random(seed);
  for (int64_t b = 0; b < heads * blocks * blocks; ++b) mask->live.push_back(random() % 3 == 0);
  Atom atom;
  atom.kind = AtomKind::kMask;
  atom.file = "blocks.safetensors";
  atom.mask = mask;
  return Pattern({{0, Expr{Expr::Op::kAtom, atom, {}}}}, true);
}

TEST(Plan, CoversBlockMasksOnce) {
  uint32_t seed = 0;
  for (const int64_t heads : {1, 4}) {
    for (const auto& [blocks, block_size] : {std::pair<int64_t, int64_t>{9, 8}, {40, 3}, {2, 30}}) {
      const Pattern mask = masked(heads, blocks, block_size, ++seed);
      for (const Pattern& pattern :
           {mask, mask | local(12), mask & strided(2), bidirectional(mask)}) {
        for (const auto& [q_len, k_len] : kLengths) {
          const BoundPattern bound = pattern.bind(4, q_len, k_len);
          for (const TileShape tile : kTiles) {
            EXPECT_EQ(check_plan(compile(bound, tile, false)), "") << k_len;
            EXPECT_EQ(check_plan(compile(bound, tile, true)), "") << k_len;
          }
        }
      }
    }
  }
}

// More terms than the normal form keeps: the plan asks the pattern pair by pair.
TEST(Plan, CoversPatternsOfVeryManyTermsOnce) {
  std::string left = "sinks(1)", right = "local(2)";
  for (int n = 0; n < 11; ++n) {
    left += concat(" | random(2, ", n + 3, ", ", n, ")");
    right += concat(" | global{", 3 * n + 2, ", ", 5 * n + 7, "}");
  }
  const std::string text = "(" + left + ") & (" + right + ")";
  const auto terms = plan::normal_form(Pattern::parse(text).bind(1, 97, 97), 0, false);
  ASSERT_EQ(terms.size(), 1u);
  EXPECT_TRUE(terms[0].general);
  for (const TileShape tile : {TileShape{16, 16}, TileShape{64, 64}}) {
    EXPECT_EQ(check_pattern(text, 1, 97, 97, tile), "");
    EXPECT_EQ(check_pattern(text, 1, 40, 97, tile), "");
  }
}

TEST(NormalForm, MergesWhatAndJoins) {
  const auto terms = [](const char* text) {
    return plan::normal_form(Pattern::parse(text).bind(1, 1000, 1000), 0, false);
  };
  const auto dilated = terms("local(100) & strided(6) & strided(4)");
  ASSERT_EQ(dilated.size(), 1u);
  EXPECT_EQ(dilated[0].modulus, 12);
  EXPECT_EQ(dilated[0].lo, 0);
  EXPECT_EQ(dilated[0].hi, 96);
  EXPECT_EQ(terms("strided(8) | strided(16) | (strided(24) & local(50))").size(), 1u);
  EXPECT_EQ(terms("dense | random(2, 8, 0) | block(5)").size(), 1u);
  EXPECT_EQ(terms("(sinks(3) | block(8)) & (local(9) | strided(7))").size(), 4u);
  EXPECT_TRUE(terms("sinks(2) & global{5}").empty());
}

TEST(Plan, ListsTheRowsOfAPatternWithoutPairs) {
  const BoundPattern pattern = Pattern::parse("sinks(2) & global{5}").bind(2, 40, 40);
  for (const bool transposed : {false, true}) {
    const Plan plan = compile(pattern, {16, 16}, transposed);
    EXPECT_EQ(check_plan(plan), "");
    EXPECT_TRUE(plan.runs.empty());
  }
}

TEST(Plan, ThreadsMakeTheSamePlan) {
  const std::string text =
      "heads(2*random(3, 1, 7) | local(5), 1*fixed(24, 3, 2) | global{0, 40}, 1*random(20, 1, 7))";
  const BoundPattern pattern = Pattern::parse(text).bind(8, 400, 400);
  const WorkPool pool(3);
  for (const bool transposed : {false, true}) {
    const Plan one = compile(pattern, {64, 64}, transposed);
    const Plan many = compile(pattern, {64, 64}, transposed, &pool);
    EXPECT_EQ(one.groups.size(), 7u);  // six draws, and fixed
    EXPECT_EQ(check_plan(many), "");
    EXPECT_EQ(many.mask_ids, one.mask_ids);
    EXPECT_EQ(many.offsets, one.offsets);
    ASSERT_EQ(many.masks.size(), one.masks.size());
    for (size_t m = 0; m < one.masks.size(); ++m) {
      EXPECT_EQ(many.masks[m].words, one.masks[m].words);
    }
    ASSERT_EQ(many.tiles.size(), one.tiles.size());
    for (size_t t = 0; t < one.tiles.size(); ++t) {
      EXPECT_EQ(many.tiles[t].owners, one.tiles[t].owners);
      EXPECT_EQ(many.tiles[t].run_begin, one.tiles[t].run_begin);
    }
    ASSERT_EQ(many.runs.size(), one.runs.size());
    for (size_t r = 0; r < one.runs.size(); ++r) {
      EXPECT_EQ(many.runs[r].others, one.runs[r].others);
      EXPECT_EQ(many.runs[r].mask_begin, one.runs[r].mask_begin);
    }
  }
}

TEST(Plan, RejectsTilesThatNoKernelHas) {
  const BoundPattern pattern = dense().bind(1, 8, 8);
  EXPECT_THROW(compile(pattern, {0, 16}, false), Error);
  EXPECT_THROW(compile(pattern, {16, 4096}, false), Error);
}

}  // namespace
}  // namespace lace::testing
