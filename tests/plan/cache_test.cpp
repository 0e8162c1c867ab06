#include <algorithm>
#include <chrono>
#include <limits>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "plan/plan.h"

namespace lace {
namespace {

constexpr TileShape kTile{64, 64};

class PlanCache : public ::testing::Test {
 protected:
  void SetUp() override { clear_plan_cache(); }
  void TearDown() override { clear_plan_cache(); }
};

TEST_F(PlanCache, ReturnsTheSamePlan) {
  const auto plan = cached_plan(local(8), 2, 64, 64, kTile, false);
  EXPECT_EQ(cached_plan(Pattern::parse("local(8)"), 2, 64, 64, kTile, false), plan);
  const PlanCacheStats stats = plan_cache_stats();
  EXPECT_EQ(stats.plans, 1);
  EXPECT_EQ(stats.hits, 1);
  EXPECT_EQ(stats.misses, 1);
  EXPECT_EQ(stats.bytes, plan->size_bytes());
}

TEST_F(PlanCache, TellsRequestsApart) {
  const auto plan = cached_plan(local(8), 2, 64, 64, kTile, false);
  EXPECT_NE(cached_plan(local(9), 2, 64, 64, kTile, false), plan);
  EXPECT_NE(cached_plan(local(8), 1, 64, 64, kTile, false), plan);
  EXPECT_NE(cached_plan(local(8), 2, 32, 64, kTile, false), plan);
  EXPECT_NE(cached_plan(local(8), 2, 65, 65, kTile, false), plan);
  EXPECT_NE(cached_plan(local(8), 2, 64, 64, {64, 128}, false), plan);
  EXPECT_NE(cached_plan(local(8), 2, 64, 64, kTile, true), plan);
  EXPECT_NE(cached_plan(bidirectional(local(8)), 2, 64, 64, kTile, false), plan);
  EXPECT_NE(cached_plan(global({{1, 2}}), 2, 64, 64, kTile, false),
            cached_plan(global({{1, 3}}), 2, 64, 64, kTile, false));
  EXPECT_EQ(plan_cache_stats().plans, 10);
  EXPECT_EQ(plan_cache_stats().hits, 0);
}

TEST_F(PlanCache, KeepsTheMostRecentPlans) {
  const auto first = cached_plan(local(1), 1, 16, 16, kTile, false);
  const auto second = cached_plan(local(2), 1, 16, 16, kTile, false);
  for (int64_t n = 17; n < 300; ++n) {
    cached_plan(local(2), 1, n, n, kTile, false);
    cached_plan(local(1), 1, 16, 16, kTile, false);
  }
  const PlanCacheStats stats = plan_cache_stats();
  EXPECT_EQ(stats.plans, 256);
  EXPECT_EQ(cached_plan(local(1), 1, 16, 16, kTile, false), first);
  EXPECT_NE(cached_plan(local(2), 1, 16, 16, kTile, false), second);
}

TEST_F(PlanCache, IsBoundedInBytes) {
  constexpr int64_t kPlans = 14, kBound = int64_t{256} << 20;
  int64_t all = 0;
  for (int64_t n = 0; n < kPlans; ++n) {  // one tile and one run a query: 26 MB
    const int64_t length = 250000 + n;
    all += cached_plan(local(4), 1, length, length, {1, 64}, false)->size_bytes();
  }
  EXPECT_GT(all, kBound);
  EXPECT_LE(plan_cache_stats().bytes, kBound);
  EXPECT_LT(plan_cache_stats().plans, kPlans);
}

TEST_F(PlanCache, ServesThreadsAtOnce) {
  std::vector<std::shared_ptr<const Plan>> plans(8);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < plans.size(); ++t) {
    threads.emplace_back([&plans, t] {
      for (int n = 0; n < 100; ++n) {
        plans[t] = cached_plan(local(8) | strided(8), 1, 64 + n % 5, 64 + n % 5, kTile, false);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& plan : plans) EXPECT_EQ(plan, plans[0]);
  EXPECT_EQ(plan_cache_stats().plans, 5);
}

TEST_F(PlanCache, HitIsCheap) {
  const Pattern pattern =
      Pattern::parse("heads(4*fixed(128, 32, 4), 4*(local(128) | strided(128)))");
  cached_plan(pattern, 8, 12288, 12288, kTile, false);
  constexpr int kRounds = 200, kHits = 100;
  double best_us = std::numeric_limits<double>::infinity();  // other programs slow some rounds
  for (int round = 0; round < kRounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (int n = 0; n < kHits; ++n) cached_plan(pattern, 8, 12288, 12288, kTile, false);
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
    best_us = std::min(best_us, took.count() / kHits);
  }
  EXPECT_EQ(plan_cache_stats().hits, kRounds * kHits);
  EXPECT_LT(best_us, 20) << "a hit";  // about 0.2 on a quiet machine
}

}  // namespace
}  // namespace lace
