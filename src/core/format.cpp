#include "core/format.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iterator>

namespace lace {

std::string format_number(double value) {
  if (!std::isfinite(value)) return "–";
  const double magnitude = std::abs(value);
  const int digits = magnitude == 0     ? 0
                     : magnitude >= 100 ? 0
                                        : 2 - static_cast<int>(std::floor(std::log10(magnitude)));
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%.*f", std::clamp(digits, 0, 9), value);
  return buffer;
}

std::string format_count(int64_t value) {
  std::string digits = std::to_string(value);
  const int64_t first = digits.front() == '-' ? 1 : 0;
  for (int64_t at = static_cast<int64_t>(digits.size()) - 3; at > first; at -= 3) {
    digits.insert(static_cast<size_t>(at), 1, ',');
  }
  return digits;
}

std::string format_bytes(double bytes) {
  static constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB"};
  size_t unit = 0;
  while (std::abs(bytes) >= 1000 && unit + 1 < std::size(kUnits)) {
    bytes /= 1000;
    ++unit;
  }
  return (unit == 0 ? std::to_string(static_cast<int64_t>(bytes)) : format_number(bytes)) + " " +
         kUnits[unit];
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "–";
  const auto total = static_cast<int64_t>(std::llround(seconds));
  char buffer[64];
  constexpr int64_t kDay = 24 * 3600;
  if (total >= 2 * 365 * kDay) return format_number(seconds / (365.25 * kDay)) + " years";
  if (total >= 2 * kDay) return format_number(seconds / kDay) + " days";
  if (total < 60) {
    std::snprintf(buffer, sizeof buffer, "%lld s", static_cast<long long>(total));
  } else if (total < 3600) {
    std::snprintf(buffer, sizeof buffer, "%lld:%02lld", static_cast<long long>(total / 60),
                  static_cast<long long>(total % 60));
  } else {
    std::snprintf(buffer, sizeof buffer, "%lld:%02lld:%02lld", static_cast<long long>(total / 3600),
                  static_cast<long long>(total / 60 % 60), static_cast<long long>(total % 60));
  }
  return buffer;
}

}  // namespace lace
