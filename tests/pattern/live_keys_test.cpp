#include "pattern/live_keys.h"

#include <algorithm>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "lace/error.h"

#include "pattern/cache_slots.h"
#include "pattern/random_patterns.h"
#include "pattern/retained.h"

namespace lace::pattern {
namespace {

std::vector<int64_t> expand(const KeyRuns& runs) {
  std::vector<int64_t> keys;
  for (const KeyRun& run : runs) {
    EXPECT_GT(run.width, 0);
    EXPECT_TRUE(run.count == 1 ? run.stride == 0 : run.width < run.stride);
    for (int64_t k = 0; k < run.count; ++k) {
      for (int64_t i = 0; i < run.width; ++i) keys.push_back(run.begin(k) + i);
    }
  }
  return keys;
}

void expect_live_keys(const BoundPattern& bound) {
  for (int64_t head = 0; head < bound.heads(); ++head) {
    for (int64_t query = 0; query < bound.k_len(); ++query) {
      std::vector<int64_t> got = expand(live_keys(bound, head, query)), want;
      std::sort(got.begin(), got.end());
      for (int64_t key = 0; key < bound.k_len(); ++key) {
        if (bound.attends(head, query, key)) want.push_back(key);
      }
      ASSERT_EQ(got, want) << bound.pattern().to_string() << ", head " << head << ", query "
                           << query;
    }
  }
}

Pattern random_causal(std::mt19937_64& rng) {
  const Pattern pattern = testing::random_pattern(rng, 3);
  return Pattern(pattern.entries(), /*causal=*/true);
}

TEST(LiveKeys, AreThoseOfAttends) {
  std::mt19937_64 rng(31);
  for (int i = 0; i < 1000; ++i) {
    const int64_t keys = testing::pick(rng, 3, 70);
    expect_live_keys(random_causal(rng).bind(4, keys, keys));
  }
}

TEST(LiveKeys, OfManyStretchesAreThoseOfAttends) {
  for (const char* text :
       {"strided(2) | strided(3) | strided(5)", "(strided(2) | strided(3)) & strided(5)",
        "summary(7, 2) | summary(9, 3, 1) | local(5)",
        "summary(7, 2) & summary(9, 3, 1) & strided(2)",
        "(summary(5, 2) | strided(3)) & (dilated(40, 3) | block(128))"}) {
    const BoundPattern bound = Pattern::parse(text).bind(1, 700, 700);
    for (const int64_t query : {0, 1, 64, 333, 698, 699}) {
      std::vector<int64_t> got = expand(live_keys(bound, 0, query)), want;
      std::sort(got.begin(), got.end());
      for (int64_t key = 0; key < 700; ++key) {
        if (bound.attends(0, query, key)) want.push_back(key);
      }
      EXPECT_EQ(got, want) << text << ", query " << query;
    }
  }
}

TEST(LiveKeys, AreFewRunsFarOut) {
  const auto runs = [](const char* text, int64_t query) {
    return live_keys(Pattern::parse(text).bind(1, 1 << 20, 1 << 20), 0, query);
  };
  const int64_t far = 1'000'000;
  EXPECT_EQ(runs("dense", far), (KeyRuns{{0, far + 1, 1, 0}}));
  EXPECT_EQ(runs("local(128)", far), (KeyRuns{{far - 127, 128, 1, 0}}));
  EXPECT_EQ(runs("strided(128)", far), (KeyRuns{{64, 1, 7813, 128}}));
  EXPECT_EQ(runs("local(128) | strided(128)", far),
            (KeyRuns{{far - 127, 128, 1, 0}, {64, 1, 7812, 128}}));
  EXPECT_EQ(runs("fixed(128, 32, 1)", far), (KeyRuns{{far - 64, 65, 1, 0}, {96, 32, 7812, 128}}));
  EXPECT_EQ(runs("strided(128) & local(1024)", far), (KeyRuns{{far - 896, 1, 8, 128}}));
  EXPECT_EQ(key_count(runs("strided(4) & summary(16, 4)", far)), 62500);
  EXPECT_LE(runs("strided(4) & summary(16, 4)", far).size(), 62500u);
}

TEST(LiveKeys, RefusesTwoSidedPatterns) {
  EXPECT_THROW(live_keys(Pattern::parse("bidirectional(local(4))").bind(1, 8, 8), 0, 3), Error);
}

TEST(Retained, KeepsWhatThePatternCanStillRead) {
  const auto kept = [](const char* text) {
    return retained(Pattern::parse(text).bind(4, 4096, 4096), 1);
  };
  EXPECT_EQ(kept("local(128)").window, 128);
  EXPECT_EQ(kept("local(3, 16)").rows(4096), 48);
  EXPECT_TRUE(kept("strided(64)").all);
  EXPECT_TRUE(kept("local(8) | dense").all);
  EXPECT_TRUE(kept("summary(8, 8)").all);
  EXPECT_EQ(kept("strided(64) & local(512)").window, 512);
  EXPECT_EQ(kept("fixed(64, 16, 4)").rows(4096), 64 + 64 * 16);
  EXPECT_EQ(kept("fixed(64, 16, 4)").columns, (std::vector<Retained::Columns>{{64, 32, 16}}));
  EXPECT_EQ(kept("sinks(4) | global{2..9, -1} | local(16)").tokens,
            (std::vector<TokenRange>{{0, 9}, {4095, 4095}}));
  const BoundPattern fixed = Pattern::parse("fixed(64, 16, 4)").bind(4, 4096, 4096);
  EXPECT_EQ(join(retained(fixed, 0), retained(fixed, 1)).columns,
            (std::vector<Retained::Columns>{{64, 32, 32}}));
  EXPECT_EQ(join(retained(fixed, 0), retained(fixed, 2)).columns.size(), 2u);
}

// A cache of positions: what is read must be the position that was asked for.
class PositionCache {
 public:
  PositionCache(const BoundPattern& bound, int64_t first_head, int64_t heads, int64_t rollback)
      : bound_(bound), first_head_(first_head), heads_(heads) {
    Retained kept = retained(bound, first_head);
    for (int64_t h = 1; h < heads; ++h) kept = join(kept, retained(bound, first_head + h));
    slots_ = CacheSlots(kept, bound.k_len(), rollback);
    rows_.assign(static_cast<size_t>(slots_.size()), -1);
    EXPECT_LE(slots_.size(), bound.k_len());
  }

  void write(int64_t position) {
    std::vector<int64_t> places;
    slots_.append_writes(position, places);
    for (const int64_t slot : places) rows_.at(static_cast<size_t>(slot)) = position;
  }

  void expect_reads(int64_t position) {
    for (int64_t h = 0; h < heads_; ++h) {
      const KeyRuns keys = live_keys(bound_, first_head_ + h, position);
      std::vector<int64_t> want = expand(keys), got;
      for (const int64_t slot : expand(slots_.slots_of(keys, position))) {
        got.push_back(rows_.at(static_cast<size_t>(slot)));
      }
      std::sort(want.begin(), want.end());
      std::sort(got.begin(), got.end());
      ASSERT_EQ(got, want) << bound_.pattern().to_string() << ", position " << position;
    }
  }

 private:
  const BoundPattern& bound_;
  int64_t first_head_, heads_;
  CacheSlots slots_{{}, 1, 0};
  std::vector<int64_t> rows_;
};

TEST(CacheSlots, HoldWhatIsReadAlsoAfterRollback) {
  std::mt19937_64 rng(32);
  for (int i = 0; i < 1000; ++i) {
    const int64_t keys = testing::pick(rng, 3, 90), rollback = testing::pick(rng, 0, 9);
    const BoundPattern bound = random_causal(rng).bind(4, keys, keys);
    const int64_t heads = testing::pick(rng, 0, 1) ? 2 : 1;
    PositionCache cache(bound, testing::pick(rng, 0, 2), heads, rollback);
    int64_t position = 0, furthest = -1;
    for (int step = 0; step < 200 && position < keys; ++step) {
      cache.write(position);
      cache.expect_reads(position);
      furthest = std::max(furthest, position++);
      if (testing::pick(rng, 0, 4) == 0) {
        const int64_t lowest = std::max<int64_t>(0, furthest + 1 - rollback);
        position = testing::pick(rng, std::min(lowest, position), position);
      }
      if (HasFatalFailure()) return;
    }
  }
}

TEST(CacheSlots, SetsThatArePackedAreReadInOneRun) {
  const BoundPattern bound = Pattern::parse("fixed(128, 32, 4)").bind(4, 12288, 12288);
  const CacheSlots slots(retained(bound, 0), 12288, 0);
  EXPECT_EQ(slots.size(), 128 + 96 * 32);
  EXPECT_EQ(slots.slots_of(live_keys(bound, 0, 1000), 1000),
            (KeyRuns{{128, 7 * 32, 1, 0}, {896 % 128, 105, 1, 0}}));
  EXPECT_EQ(slots.used(1000), 128 + 7 * 32 + 9);
}

}  // namespace
}  // namespace lace::pattern
