#include "lace/error.h"

#include <gtest/gtest.h>

namespace lace {
namespace {

TEST(Errors, CheckJoinsItsArguments) {
  int evaluated = 0;
  EXPECT_NO_THROW(LACE_CHECK(true, "[op] not made, got ", ++evaluated));
  EXPECT_EQ(evaluated, 0);
  try {
    LACE_CHECK(1 > 2, "[op] size must be at least ", 2, ", got ", 1.5, 'x');
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "[op] size must be at least 2, got 1.5x");
  }
}

TEST(Errors, CheckIsOneStatement) {
  const bool wrong = true;
  if (wrong)
    LACE_CHECK(wrong, "[op] rule");
  else
    FAIL() << "the else belongs to the if around the check";
}

}  // namespace
}  // namespace lace
