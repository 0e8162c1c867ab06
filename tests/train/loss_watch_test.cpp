#include "train/loss_watch.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace lace::train {
namespace {

TEST(LossWatch, FindsWhatIsAboveTheMeanByTheFactor) {
  LossWatch watch(2);
  for (int i = 0; i < 20; ++i) EXPECT_FALSE(watch.add(i == 10 ? 9 : 1)) << i;  // too early to tell
  const double mean = watch.state().mean;
  EXPECT_NEAR(mean, 28.0 / 20, 1e-12);
  EXPECT_FALSE(watch.add(2 * mean));
  const double now = watch.state().mean;
  EXPECT_TRUE(watch.add(2.001 * now));
  // It counts as the highest that is none.
  EXPECT_NEAR(watch.state().mean, now + now / 22, 1e-12);
}

TEST(LossWatch, ARiseThatLastsIsTheMeanAfterAWhile) {
  LossWatch watch(2);
  for (int i = 0; i < 200; ++i) watch.add(1);
  int spikes = 0;
  for (int i = 0; i < 2000; ++i) spikes += watch.add(4);
  EXPECT_GT(spikes, 10);
  EXPECT_FALSE(watch.add(4));
  EXPECT_NEAR(watch.state().mean, 4, 0.01);
}

TEST(LossWatch, WhatIsNotFiniteIsASpikeAndNoPartOfTheMean) {
  LossWatch watch(2);
  watch.add(1);
  EXPECT_TRUE(watch.add(std::numeric_limits<double>::quiet_NaN()));
  EXPECT_TRUE(watch.add(std::numeric_limits<double>::infinity()));
  EXPECT_EQ(watch.state().mean, 1);
  EXPECT_EQ(watch.state().steps, 1);
}

TEST(LossWatch, GoesOnFromItsStateAndCanBeOff) {
  LossWatch whole(1.5), first(1.5), second(1.5), off(0);
  for (int i = 0; i < 300; ++i) {
    const double loss = 2 + std::sin(i) + (i % 40 == 39 ? 4 : 0);
    const bool spike = whole.add(loss);
    if (i == 150) second.set_state(first.state());
    EXPECT_EQ((i < 150 ? first : second).add(loss), spike) << i;
    EXPECT_FALSE(off.add(loss));
  }
  EXPECT_EQ(second.state().mean, whole.state().mean);
}

}  // namespace
}  // namespace lace::train
