#include "core/format.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace lace {

namespace {

// The exponent of ten that a number has once it is rounded to three digits.
int exponent(double value) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%.2e", value);
  const std::string text = buffer;
  return std::atoi(text.c_str() + text.find('e') + 1);
}

std::string decimals(double value, int digits) {
  char buffer[400];
  std::snprintf(buffer, sizeof buffer, "%.*f", digits, value);
  return buffer;
}

// A comma between thousands of a whole number.
std::string grouped(std::string digits) {
  const int64_t first = digits.front() == '-' ? 1 : 0;
  for (int64_t at = static_cast<int64_t>(digits.size()) - 3; at > first; at -= 3)
    digits.insert(static_cast<size_t>(at), 1, ',');
  return digits;
}

// Divides by 1000 until three digits tell it, at most `most` times; how often.
size_t scale_down(double& value, size_t most) {
  size_t times = 0;
  for (; times < most && exponent(value) >= 3; ++times) value /= 1000;
  return times;
}

}  // namespace

std::string format_number(double value) {
  if (!std::isfinite(value)) return "–";
  const int digits = value == 0 ? 0 : std::clamp(2 - exponent(value), 0, 9);
  const std::string text = decimals(value, digits);
  return digits == 0 ? grouped(text) : text;
}

std::string format_count(int64_t value) { return grouped(std::to_string(value)); }

std::string format_short(double value) {
  if (!std::isfinite(value)) return "–";
  constexpr std::array kUnits{"", "k", "M", "G", "T"};
  const size_t unit = scale_down(value, kUnits.size() - 1);
  return without_zeros(format_number(value)) + kUnits[unit];
}

std::string format_bytes(double bytes) {
  if (!std::isfinite(bytes)) return "–";
  constexpr std::array kUnits{" B", " kB", " MB", " GB", " TB"};
  const size_t unit = scale_down(bytes, kUnits.size() - 1);
  return (unit == 0 ? decimals(bytes, 0) : format_number(bytes)) + kUnits[unit];
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "–";
  if (seconds < 0.9995) return without_zeros(format_number(seconds)) + " s";
  if (seconds < 9.95) return without_zeros(decimals(seconds, 1)) + " s";
  const auto total = static_cast<int64_t>(std::llround(std::min(seconds, 1e18)));
  constexpr int64_t kDay = 24 * 3600;
  if (total >= 2 * 365 * kDay) return format_number(seconds / (365.25 * kDay)) + " years";
  if (total >= 2 * kDay) return format_number(seconds / kDay) + " days";
  if (total < 60) return std::to_string(total) + " s";
  char buffer[64];
  const auto part = [&](int64_t of, int64_t most) {
    return static_cast<long long>(total / of % most);
  };
  if (total < 3600) {
    std::snprintf(buffer, sizeof buffer, "%lld:%02lld", part(60, 60), part(1, 60));
  } else {
    std::snprintf(buffer, sizeof buffer, "%lld:%02lld:%02lld", part(3600, kDay), part(60, 60),
                  part(1, 60));
  }
  return buffer;
}

std::string without_zeros(std::string text) {
  const bool plain = text.find('.') != std::string::npos &&
                     text.find_first_not_of("-0123456789.") == std::string::npos;
  while (plain && text.back() == '0') text.pop_back();
  if (plain && text.back() == '.') text.pop_back();
  return text;
}

}  // namespace lace
