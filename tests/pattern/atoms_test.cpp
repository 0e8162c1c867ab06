#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lace/error.h"
#include "lace/pattern.h"

#include "pattern/random_patterns.h"
#include "pattern/rows.h"

namespace lace {
namespace {

// Whether i sees j among n keys, written once more from the definitions, causality aside.
using Formula = std::function<bool(int64_t i, int64_t j, int64_t n)>;

struct Case {
  const char* text;
  Formula causal;
  Formula two_sided;
};

bool one_of(int64_t x, const std::vector<int64_t>& list) {
  for (const int64_t y : list) {
    if (x == y) return true;
  }
  return false;
}

std::vector<Case> cases() {
  const Formula always = [](int64_t, int64_t, int64_t) { return true; };
  const Formula block5 = [](int64_t i, int64_t j, int64_t) {
    return i - i % 5 <= j && j < i - i % 5 + 5;
  };
  const Formula strided6 = [](int64_t i, int64_t j, int64_t) { return std::abs(i - j) % 6 == 0; };
  const Formula summary83 = [](int64_t, int64_t j, int64_t) {
    return j % 8 == 5 || j % 8 == 6 || j % 8 == 7;
  };
  const Formula summary831 = [](int64_t, int64_t j, int64_t) {
    return j % 8 == 2 || j % 8 == 3 || j % 8 == 4;
  };
  const Formula sinks3 = [](int64_t, int64_t j, int64_t) { return j <= 2; };
  return {
      {"dense", always, always},
      {"local(1)", [](int64_t i, int64_t j, int64_t) { return i == j; },
       [](int64_t i, int64_t j, int64_t) { return i == j; }},
      {"local(5)", [](int64_t i, int64_t j, int64_t) { return j >= i - 4; },
       [](int64_t i, int64_t j, int64_t) { return std::abs(i - j) <= 2; }},
      {"local(4)", [](int64_t i, int64_t j, int64_t) { return j >= i - 3; },
       [](int64_t i, int64_t j, int64_t) { return std::abs(i - j) <= 2; }},
      {"local(3, 4)", [](int64_t i, int64_t j, int64_t) { return j / 4 + 2 >= i / 4; },
       [](int64_t i, int64_t j, int64_t) { return std::abs(i / 4 - j / 4) <= 1; }},
      {"block(5)", block5, block5},
      {"strided(6)", strided6, strided6},
      {"summary(8, 3)", summary83, summary83},
      {"summary(8, 3, 1)", summary831, summary831},
      {"dilated(4, 3)",
       [](int64_t i, int64_t j, int64_t) {
         return one_of(i - j, {0, 3, 6, 9});
       },
       [](int64_t i, int64_t j, int64_t) {
         return one_of(i - j, {-6, -3, 0, 3, 6});
       }},
      {"global(2)", [](int64_t, int64_t j, int64_t) { return j == 0 || j == 1; },
       [](int64_t i, int64_t j, int64_t) { return j < 2 || i < 2; }},
      {"global{1, 4..5, -2..-1}",
       [](int64_t, int64_t j, int64_t n) {
         return one_of(j, {1, 4, 5, n - 2, n - 1});
       },
       [](int64_t i, int64_t j, int64_t n) {
         return one_of(j, {1, 4, 5, n - 2, n - 1}) || one_of(i, {1, 4, 5, n - 2, n - 1});
       }},
      {"sinks(3)", sinks3, sinks3},
      {"local(4) & strided(2)", [](int64_t i, int64_t j, int64_t) { return j == i || j == i - 2; },
       [](int64_t i, int64_t j, int64_t) { return j == i || std::abs(i - j) == 2; }},
      {"sinks(1) | local(2) & strided(7)",
       [](int64_t i, int64_t j, int64_t) { return j == 0 || i == j; },
       [](int64_t i, int64_t j, int64_t) { return j == 0 || i == j; }},
      {"(sinks(1) | local(2)) & block(5)",
       [&](int64_t i, int64_t j, int64_t) { return i / 5 == j / 5 && (j == 0 || i - j < 2); },
       [&](int64_t i, int64_t j, int64_t) {
         return i / 5 == j / 5 && (j == 0 || std::abs(i - j) < 2);
       }},
  };
}

TEST(Atoms, AgreeWithTheirFormulas) {
  for (const Case& c : cases()) {
    for (const int64_t n : {6, 17, 40}) {
      const BoundPattern causal = Pattern::parse(c.text).bind(2, n, n);
      const BoundPattern both = bidirectional(Pattern::parse(c.text)).bind(2, n, n);
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          ASSERT_EQ(causal.attends(1, i, j), j <= i && c.causal(i, j, n))
              << c.text << " n=" << n << " i=" << i << " j=" << j;
          ASSERT_EQ(both.attends(1, i, j), c.two_sided(i, j, n))
              << "bidirectional " << c.text << " n=" << n << " i=" << i << " j=" << j;
        }
      }
    }
  }
}

TEST(Atoms, PositionsAreAbsoluteWithFewerQueriesThanKeys) {
  const BoundPattern bound = Pattern::parse("block(8) | strided(8)").bind(1, 3, 20);
  EXPECT_EQ(bound.q_len(), 3);
  EXPECT_EQ(bound.k_len(), 20);
  EXPECT_TRUE(bound.attends(0, 17, 16));
  EXPECT_TRUE(bound.attends(0, 17, 9));
  EXPECT_FALSE(bound.attends(0, 17, 15));
}

TEST(Atoms, ConstructorsEqualTheParsedText) {
  EXPECT_EQ(dense(), Pattern::parse("dense"));
  EXPECT_EQ(local(7), Pattern::parse("local(7)"));
  EXPECT_EQ(local(7, 1), Pattern::parse("local(7, 1)"));
  EXPECT_EQ(local(3, 64), Pattern::parse("local(3, 64)"));
  EXPECT_EQ(block(5), Pattern::parse("block(5)"));
  EXPECT_EQ(strided(5), Pattern::parse("strided(5)"));
  EXPECT_EQ(summary(8, 2), Pattern::parse("summary(8, 2, 0)"));
  EXPECT_EQ(summary(8, 2, 3), Pattern::parse("summary(8, 2, 3)"));
  EXPECT_EQ(fixed(128, 32, 4), Pattern::parse("fixed(128, 32, 4)"));
  EXPECT_EQ(dilated(512, 16), Pattern::parse("dilated(512, 16)"));
  EXPECT_EQ(global(64), Pattern::parse("global(64)"));
  EXPECT_EQ(global({{0, 63}, {-64, -1}, {5, 5}}), Pattern::parse("global{0..63, -64..-1, 5}"));
  EXPECT_EQ(sinks(4), Pattern::parse("sinks(4)"));
  EXPECT_EQ(random(3, 64, 7), Pattern::parse("random(3, 64, 7)"));
  EXPECT_EQ(heads({{4, local(8) | strided(8)}, {4, dense()}}),
            Pattern::parse("heads(4*local(8) | strided(8), 4*dense)"));
  EXPECT_EQ(bidirectional(local(8) & (strided(2) | block(4))),
            Pattern::parse("bidirectional(local(8) & (strided(2) | block(4)))"));
  EXPECT_FALSE((local(8) | strided(8)) == (strided(8) | local(8)));
}

std::string message(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Atoms, ConstructorsNameTheArgumentThatIsWrong) {
  EXPECT_EQ(message([] { local(0); }), "[local] window must be at least 1, got 0");
  EXPECT_EQ(message([] { local(1, -2); }), "[local] block must be at least 1, got -2");
  EXPECT_EQ(message([] { block(0); }), "[block] length must be at least 1, got 0");
  EXPECT_EQ(message([] { strided(int64_t{1} << 40); }),
            "[strided] length must be at most 2147483647, got 1099511627776");
  EXPECT_EQ(message([] { summary(8, 9); }), "[summary] columns must be at most length (8), got 9");
  EXPECT_EQ(message([] { summary(8, 3, 2); }),
            "[summary] stripe must be at most 1 (length 8, columns 3), got 2");
  EXPECT_EQ(message([] { fixed(8, 3, 3); }),
            "[fixed] stripes must be at most 2 (length 8, columns 3), got 3");
  EXPECT_EQ(message([] { dilated(3, 0); }), "[dilated] dilation must be at least 1, got 0");
  EXPECT_EQ(message([] { global(0); }), "[global] count must be at least 1, got 0");
  EXPECT_EQ(message([] { global(std::vector<TokenRange>{}); }),
            "[global] tokens must be at least one range, got none");
  EXPECT_EQ(message([] { global({{5, 3}}); }), "[global] range of tokens must ascend, got 5..3");
  EXPECT_EQ(message([] { global({{-5, 3}}); }), "[global] range of tokens must ascend, got -5..3");
  EXPECT_EQ(message([] { sinks(-1); }), "[sinks] count must be at least 1, got -1");
  EXPECT_EQ(message([] { random(1, 1, -1); }), "[random] seed must be at least 0, got -1");
  EXPECT_EQ(message([] { heads({{0, dense()}}); }), "[heads] count must be at least 1, got 0");
  EXPECT_EQ(message([] { bidirectional(dense()) | dense(); }),
            "[union] bidirectional(…) must be outermost, got bidirectional(dense)");
  EXPECT_EQ(message([] {
              dense() & heads({{2, dense()}});
            }),
            "[intersection] heads(…) must be outermost, got heads(2*dense)");
  EXPECT_EQ(message([] { bidirectional(bidirectional(dense())); }),
            "[bidirectional] pattern must not be bidirectional already, got bidirectional(dense)");
}

TEST(Patterns, SayWhetherTheyDependOnTheLength) {
  for (const char* text : {"global{0..2, -3..-1}", "local(3) | global{-1}",
                           "bidirectional(random(2, 16, 7))", "heads(1*dense, 1*global{-1})"}) {
    EXPECT_TRUE(Pattern::parse(text).depends_on_length()) << text;
  }
  for (const char* text : {"random(2, 16, 7) | fixed(8, 2, 4)", "global{0..2}",
                           "bidirectional(local(3) | global(2))"}) {
    EXPECT_FALSE(Pattern::parse(text).depends_on_length()) << text;
  }
}

TEST(Bind, ChecksLengthsAndHeads) {
  EXPECT_EQ(message([] { dense().bind(0, 4, 4); }), "[bind] heads must be from 1 to 65536, got 0");
  EXPECT_EQ(message([] { dense().bind(1, 0, 4); }), "[bind] q_len must be at least 1, got 0");
  EXPECT_EQ(message([] { dense().bind(1, 5, 4); }),
            "[bind] q_len must be at most k_len (4), got 5");
  EXPECT_EQ(message([] { Pattern::parse("heads(2*dense, 1*block(4))").bind(8, 4, 4); }),
            "[bind] counts of heads(…) must add up to the heads (8) or divide them, got 3");
  EXPECT_EQ(message([] { Pattern::parse("global{9}").bind(1, 9, 9); }),
            "[global] tokens must lie inside the 9 keys, got global{9}");
}

TEST(Bind, HeadsRepeatTheirCounts) {
  const BoundPattern bound = Pattern::parse("heads(1*block(2), 2*strided(3))").bind(6, 9, 9);
  EXPECT_EQ(bound.groups(), 2);
  std::vector<int64_t> groups;
  for (int64_t head = 0; head < 6; ++head) groups.push_back(bound.group(head));
  EXPECT_EQ(groups, (std::vector<int64_t>{0, 1, 1, 0, 1, 1}));
  EXPECT_EQ(bound.group_head(1), 1);
}

TEST(Bind, FixedIsBlockAndTheStripeOfItsHead) {
  const BoundPattern bound = fixed(8, 2, 3).bind(8, 40, 40);
  EXPECT_EQ(bound.groups(), 3);
  for (int64_t head = 0; head < 8; ++head) {
    EXPECT_EQ(bound.group(head), head % 3);
    const BoundPattern one = (block(8) | summary(8, 2, head % 3)).bind(1, 40, 40);
    EXPECT_EQ(bound.expr(head), one.expr(0));
    for (int64_t i = 0; i < 40; ++i) {
      for (int64_t j = 0; j < 40; ++j) {
        ASSERT_EQ(bound.attends(head, i, j), one.attends(0, i, j));
      }
    }
  }
}

TEST(Bind, EqualSetsShareAGroup) {
  EXPECT_EQ(dense().bind(8, 4, 4).groups(), 1);
  EXPECT_EQ(Pattern::parse("heads(1*global(4), 1*global{2..3, 0..1})").bind(2, 9, 9).groups(), 1);
  EXPECT_EQ(Pattern::parse("heads(1*block(4), 1*block(5))").bind(2, 9, 9).groups(), 2);
  EXPECT_EQ(random(2, 4, 1).bind(8, 64, 64).groups(), 8);
}

TEST(Bind, WithOneDrawHeadsDifferInNoDraw) {
  const BoundPattern bound =
      Pattern::parse("heads(1*dense, 2*random(2, 4, 1) | local(3), 1*random(2, 4, 2))")
          .bind(8, 64, 64);
  EXPECT_EQ(bound.groups(), 7);
  const BoundPattern one = bound.with_one_draw();
  EXPECT_EQ(one.groups(), 3);
  std::vector<int64_t> groups;
  for (int64_t head = 0; head < 8; ++head) groups.push_back(one.group(head));
  EXPECT_EQ(groups, (std::vector<int64_t>{0, 1, 1, 2, 0, 1, 1, 2}));
  for (int64_t group = 0; group < 3; ++group) {
    const int64_t head = one.group_head(group);
    EXPECT_EQ(head, std::vector<int64_t>({0, 1, 3})[static_cast<size_t>(group)]);
    EXPECT_EQ(one.expr(head), bound.expr(head));
  }
  for (int64_t head = 0; head < 8; ++head) {
    for (int64_t pair = 0; pair < 64 * 64; ++pair) {
      ASSERT_EQ(one.attends(head, pair / 64, pair % 64),
                bound.attends(one.group_head(one.group(head)), pair / 64, pair % 64));
    }
  }
}

TEST(Bind, TokensAreResolved) {
  const BoundPattern bound = Pattern::parse("global{-3..-1, 0..5, 4..7, 20}").bind(1, 30, 30);
  EXPECT_EQ(bound.expr(0).atom.tokens, (std::vector<TokenRange>{{0, 7}, {20, 20}, {27, 29}}));
  EXPECT_EQ(global(50).bind(1, 30, 30).expr(0).atom.tokens, (std::vector<TokenRange>{{0, 29}}));
}

TEST(Rows, EqualAttends) {
  std::mt19937_64 rng(11);
  for (int round = 0; round < 400; ++round) {
    const Pattern pattern = testing::random_pattern(rng, 3);
    const int64_t n = testing::pick(rng, 1, 150), heads = 4;
    const BoundPattern bound = pattern.bind(heads, n, n);
    const int64_t begin = testing::pick(rng, 0, n), end = testing::pick(rng, begin, n);
    const int64_t head = testing::pick(rng, 0, heads - 1);
    for (int64_t i = 0; i < n; ++i) {
      std::vector<uint64_t> bits(static_cast<size_t>((end - begin + 63) / 64));
      pattern::add_row(bound, head, i, begin, end, bits.data());
      for (int64_t j = begin; j < begin + static_cast<int64_t>(bits.size()) * 64; ++j) {
        const auto bit = static_cast<size_t>(j - begin);
        ASSERT_EQ((bits[bit / 64] >> (bit % 64)) & 1, j < end && bound.attends(head, i, j))
            << pattern.to_string() << " n=" << n << " i=" << i << " j=" << j;
      }
    }
  }
}

TEST(Rows, KnownFigures) {
  const int64_t n = 12288;
  const BoundPattern bound = Pattern::parse("block(128) | summary(128, 32)").bind(8, n, n);
  int64_t total = 0, most = 0;
  for (int64_t i = 0; i < n; ++i) {
    std::vector<uint64_t> bits(n / 64);
    pattern::add_row(bound, 0, i, 0, n, bits.data());
    int64_t keys = 0;
    for (const uint64_t word : bits) keys += __builtin_popcountll(word);
    total += keys;
    most = std::max(most, keys);
  }
  EXPECT_EQ(static_cast<double>(total) / static_cast<double>(n), 1584.5);
  EXPECT_EQ(most, 3168);
}

}  // namespace
}  // namespace lace
