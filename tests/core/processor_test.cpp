#include "core/processor.h"

#include <algorithm>

#include <sched.h>

#include <gtest/gtest.h>

namespace lace {
namespace {

TEST(Processor, IsDescribed) {
  const Processor processor = this_processor();
  EXPECT_FALSE(processor.name.empty());
  EXPECT_GE(processor.cores, 1);
#ifdef __x86_64__
  __builtin_cpu_init();
  const auto has = [&processor](const char* feature) {
    return std::ranges::find(processor.features, feature) != processor.features.end();
  };
  EXPECT_EQ(has("avx2"), __builtin_cpu_supports("avx2") != 0);
  EXPECT_EQ(has("avx512f"), __builtin_cpu_supports("avx512f") != 0);
#endif
}

TEST(Processor, CountsTheCoresThatThisProcessMayUse) {
  cpu_set_t all, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof all, &all), 0);
  CPU_ZERO(&one);
  int first = 0;
  while (!CPU_ISSET(first, &all)) ++first;
  CPU_SET(first, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(this_processor().cores, 1);
  ASSERT_EQ(sched_setaffinity(0, sizeof all, &all), 0);
  EXPECT_EQ(this_processor().cores, CPU_COUNT(&all));
}

}  // namespace
}  // namespace lace
