#include "core/format.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace lace {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(Format, NumbersHaveThreeDigits) {
  EXPECT_EQ(format_number(0), "0");
  EXPECT_EQ(format_number(0.012345), "0.0123");
  EXPECT_EQ(format_number(1.5), "1.50");
  EXPECT_EQ(format_number(-12.34), "-12.3");
  EXPECT_EQ(format_number(9.996), "10.0");
  EXPECT_EQ(format_number(99.96), "100");
  EXPECT_EQ(format_number(7128.4), "7,128");
  EXPECT_EQ(format_number(-34171.4), "-34,171");
  EXPECT_EQ(format_number(1e15), "1,000,000,000,000,000");
  EXPECT_EQ(format_number(NAN), "–");
  EXPECT_EQ(format_number(-kInfinity), "–");
}

TEST(Format, Counts) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(-1000), "-1,000");
  EXPECT_EQ(format_count(1048576), "1,048,576");
}

TEST(Format, ShortNumbersAreRoundedIntoTheirUnit) {
  EXPECT_EQ(format_short(0), "0");
  EXPECT_EQ(format_short(0.5), "0.5");
  EXPECT_EQ(format_short(120), "120");
  EXPECT_EQ(format_short(30000), "30k");
  EXPECT_EQ(format_short(34171), "34.2k");
  EXPECT_EQ(format_short(999600), "1M");
  EXPECT_EQ(format_short(1500000), "1.5M");
  EXPECT_EQ(format_short(-2e9), "-2G");
  EXPECT_EQ(format_short(5e15), "5,000T");
  EXPECT_EQ(format_short(NAN), "–");
}

TEST(Format, Bytes) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(1000), "1.00 kB");
  EXPECT_EQ(format_bytes(999700), "1.00 MB");
  EXPECT_EQ(format_bytes(2.9e9), "2.90 GB");
  EXPECT_EQ(format_bytes(5e15), "5,000 TB");
  EXPECT_EQ(format_bytes(kInfinity), "–");
}

TEST(Format, DurationsAreThoseOfAClock) {
  EXPECT_EQ(format_duration(0), "0 s");
  EXPECT_EQ(format_duration(0.10567), "0.106 s");
  EXPECT_EQ(format_duration(0.5), "0.5 s");
  EXPECT_EQ(format_duration(0.9999), "1 s");
  EXPECT_EQ(format_duration(7.32), "7.3 s");
  EXPECT_EQ(format_duration(9.97), "10 s");
  EXPECT_EQ(format_duration(42.4), "42 s");
  EXPECT_EQ(format_duration(59.7), "1:00");
  EXPECT_EQ(format_duration(245), "4:05");
  EXPECT_EQ(format_duration(3599.6), "1:00:00");
  EXPECT_EQ(format_duration(7128), "1:58:48");
  EXPECT_EQ(format_duration(30 * 3600), "30:00:00");
  EXPECT_EQ(format_duration(3.5 * 86400), "3.50 days");
  EXPECT_EQ(format_duration(673 * 86400.0), "673 days");
  EXPECT_EQ(format_duration(22.6 * 365.25 * 86400), "22.6 years");
  EXPECT_EQ(format_duration(-1), "–");
  EXPECT_EQ(format_duration(NAN), "–");
  EXPECT_NE(format_duration(1e300).find(" years"), std::string::npos);
}

TEST(Format, ZerosAtTheEndOfPlainNumbersGo) {
  EXPECT_EQ(without_zeros("0.800"), "0.8");
  EXPECT_EQ(without_zeros("-3.000"), "-3");
  EXPECT_EQ(without_zeros("1,000"), "1,000");
  EXPECT_EQ(without_zeros("1.50 MB"), "1.50 MB");
  EXPECT_EQ(without_zeros(""), "");
}

}  // namespace
}  // namespace lace
