#pragma once

#include <cstdint>
#include <string>

namespace lace {

// Figures as people read them; "–" for what is not finite.

// "12.3", "0.0123", "34,171": three significant digits, whole from 100 on, no exponent.
std::string format_number(double value);
// "1,048,576"
std::string format_count(int64_t value);
// "0.5", "120", "34.2k", "1.5M": at most three significant digits (powers of 1000)
std::string format_short(double value);
// "1.50 MB" (powers of 1000)
std::string format_bytes(double bytes);
// "0.106 s", "7.3 s", "42 s", "4:05", "1:02:03"; from two days on "3.50 days", from two years on
// "4.50 years"
std::string format_duration(double seconds);
// "0.800" → "0.8"; what is no plain number stays.
std::string without_zeros(std::string text);

}  // namespace lace
