#include "train/background.h"

#include <atomic>
#include <memory>
#include <stdexcept>
#include <thread>

#include <gtest/gtest.h>

namespace lace::train {
namespace {

TEST(Background, DoesOneWorkAfterTheOther) {
  Background background;
  std::atomic<int> running{0}, done{0};
  for (int i = 0; i < 50; ++i) {
    background.start([&] {
      EXPECT_EQ(running++, 0);
      --running;
      ++done;
    });
  }
  background.finish();
  EXPECT_EQ(done, 50);
  background.finish();
}

TEST(Background, RunsBesideItsOwner) {
  Background background;
  std::atomic<bool> go{false};
  background.start([&] {
    while (!go) std::this_thread::yield();
  });
  background.check();  // does not wait
  go = true;
  background.finish();
}

TEST(Background, TellsOnceWhatWentWrong) {
  Background background;
  const auto fail = [] { throw std::runtime_error("mine"); };
  bool done = false;
  background.start(fail);
  EXPECT_THROW(background.start([&] { done = true; }), std::runtime_error);
  EXPECT_FALSE(done);
  background.start(fail);
  EXPECT_THROW(background.finish(), std::runtime_error);
  EXPECT_NO_THROW(background.check());
  background.start([&] { done = true; });
  background.finish();
  EXPECT_TRUE(done);
}

TEST(Background, WhatWorkHoldsIsGoneWhenItHasEnded) {
  Background background;
  auto held = std::make_shared<int>(1);
  background.start([held] {});
  background.finish();
  EXPECT_EQ(held.use_count(), 1);
}

TEST(Background, ItsEndWaitsForTheWork) {
  std::atomic<bool> done{false};
  {
    Background background;
    background.start([&] { done = true; });
  }
  EXPECT_TRUE(done);
}

}  // namespace
}  // namespace lace::train
