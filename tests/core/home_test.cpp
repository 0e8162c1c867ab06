#include "core/home.h"

#include <cstdlib>
#include <string>

#include <gtest/gtest.h>

namespace lace {
namespace {

TEST(Home, ExpandsALeadingTilde) {
  const char* set = std::getenv("HOME");
  const std::string before = set == nullptr ? "" : set;
  ::setenv("HOME", "/somewhere", 1);
  EXPECT_EQ(expand_home("~"), "/somewhere");
  EXPECT_EQ(expand_home("~/a/~"), "/somewhere/a/~");
  for (const char* text : {"", "a", "./~", "~other/a", "a/~/b"}) EXPECT_EQ(expand_home(text), text);
  ::unsetenv("HOME");  // the user's entry has one too
  EXPECT_EQ(expand_home("~/a").find('~'), std::string::npos);
  if (set != nullptr) ::setenv("HOME", before.c_str(), 1);
}

}  // namespace
}  // namespace lace
