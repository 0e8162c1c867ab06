#pragma once

#include <cstdint>
#include <string>

namespace lace {

// Figures as people read them.

// "12.3", "0.0123": three significant digits, no exponent.
std::string format_number(double value);
// "1,048,576"
std::string format_count(int64_t value);
// "1.5 MB" (powers of 1000)
std::string format_bytes(double bytes);
// "7 s", "4:05", "1:02:03"; from two days on "3.5 days", from two years on "4.5 years"
std::string format_duration(double seconds);

}  // namespace lace
