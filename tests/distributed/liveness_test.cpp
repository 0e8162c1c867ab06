#include "distributed/liveness.h"

#include <algorithm>

#include <gtest/gtest.h>

namespace lace::distributed {
namespace {

using Counts = std::vector<std::optional<int64_t>>;

TEST(Liveness, ARankThatCountsNoLongerIsDeadAfterSoManyLooks) {
  Liveness liveness(3);
  int64_t beat = 0;
  for (; beat < 40; ++beat) EXPECT_EQ(liveness.look({beat, beat / 2, beat}), std::nullopt);
  for (int missed = 1; missed < Liveness::kMissed; ++missed, ++beat)
    EXPECT_EQ(liveness.look({beat, beat, 39}), std::nullopt) << missed;
  EXPECT_EQ(liveness.look({beat, beat, 39}), 2);
  EXPECT_EQ(liveness.look({beat + 1, beat + 1, 39}), 2);
}

TEST(Liveness, ABeatInTimeIsLife) {
  Liveness liveness(2);
  for (int64_t look = 0; look < 200; ++look)
    EXPECT_EQ(liveness.look({look, look / Liveness::kMissed}), std::nullopt) << look;
}

TEST(Liveness, LostConnectionsMakeItSooner) {
  Liveness liveness(2);
  std::optional<int> dead;
  for (int64_t look = 0; look <= Liveness::kMissedIfLost; ++look) {
    EXPECT_EQ(dead, std::nullopt) << look;
    dead = liveness.look({look, 7}, Liveness::kMissedIfLost);
  }
  EXPECT_EQ(dead, 1);
}

TEST(Liveness, TheRankThatHasBeenDeadForLongest) {
  Liveness liveness(4);
  std::optional<int> dead;
  for (int64_t look = 0; look <= Liveness::kMissed + 3; ++look)
    dead = liveness.look({look, std::min<int64_t>(look, 2), 0, 0});
  EXPECT_EQ(dead, 2);
}

TEST(Liveness, WhoHasLeftIsNotDead) {
  Liveness liveness(2);
  for (int64_t look = 0; look < 100; ++look)
    EXPECT_EQ(liveness.look({look, look < 5 ? std::optional(look) : std::nullopt}), std::nullopt);
}

}  // namespace
}  // namespace lace::distributed
