#include "core/edit_distance.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace lace {
namespace {

TEST(EditDistance, CountsEdits) {
  EXPECT_EQ(edit_distance("", ""), 0u);
  EXPECT_EQ(edit_distance("abc", ""), 3u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("local", "local"), 0u);
  EXPECT_EQ(edit_distance("loca", "local"), 1u);    // insert
  EXPECT_EQ(edit_distance("locall", "local"), 1u);  // delete
  EXPECT_EQ(edit_distance("lokal", "local"), 1u);   // replace
  EXPECT_EQ(edit_distance("lcoal", "local"), 1u);   // swap
  EXPECT_EQ(edit_distance("abcd", "badc"), 2u);
}

TEST(NearestName, IsTheFirstOfTheNearest) {
  const std::vector<std::string_view> known{"layers", "d_model", "heads", "head"};
  EXPECT_EQ(nearest_name("d_modle", known), "d_model");
  EXPECT_EQ(nearest_name("headx", known), "heads");  // as near as head, but before it
  EXPECT_EQ(nearest_name("", known), "head");
  // Names from files may be of any length: a square table of this one would take 10^12 bytes.
  EXPECT_EQ(nearest_name("layer" + std::string(1'000'000, 's'), known), "layers");
}

}  // namespace
}  // namespace lace
