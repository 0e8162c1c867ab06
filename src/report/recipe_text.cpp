#include "report/recipe_text.h"

#include <charconv>
#include <cmath>

namespace lace::report {
namespace {

constexpr size_t kMostLines = 2000, kMostBytes = 2000;

std::string_view trimmed(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

std::optional<double> parse_number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  return whole && std::isfinite(value) ? std::optional(value) : std::nullopt;
}

// "0.050000000000000003" → "0.05"
std::string shown(std::string_view value) {
  const std::optional<double> number = parse_number(value);
  if (!number || value.find_first_of(".eE") == std::string_view::npos) return std::string(value);
  char buffer[64];
  const auto result = std::to_chars(buffer, buffer + sizeof buffer, *number);
  return std::string(buffer, result.ptr);
}

// The string that `text` begins with, which is cut off it; escapes of TOML's double quotes are
// undone, but for \u.
std::optional<std::string> take_string(std::string_view& text) {
  if (text.empty() || (text[0] != '"' && text[0] != '\'')) return std::nullopt;
  const char quote = text[0];
  std::string value;
  for (size_t i = 1; i < text.size(); ++i) {
    if (text[i] == quote) {
      text.remove_prefix(i + 1);
      return value;
    }
    if (quote == '"' && text[i] == '\\' && i + 1 < text.size()) {
      ++i;
      value += text[i] == 'n' ? '\n' : text[i] == 't' ? '\t' : text[i];
    } else {
      value += text[i];
    }
  }
  return std::nullopt;
}

}  // namespace

RecipeText::RecipeText(std::string_view text) {
  for (size_t line = 0; !text.empty() && line < kMostLines; ++line) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view all = trimmed(text.substr(0, std::min(end, kMostBytes)));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (all.empty() || all[0] == '#') continue;
    const size_t equals = all.find('=');
    if (all[0] == '[' && all.back() == ']' && equals == std::string_view::npos) {
      sections_.push_back({std::string(trimmed(all.substr(1, all.size() - 2))), {}});
      continue;
    }
    if (sections_.empty()) sections_.emplace_back();
    if (equals == std::string_view::npos) {
      sections_.back().entries.push_back({std::string(all), ""});
    } else {
      sections_.back().entries.push_back(
          {std::string(trimmed(all.substr(0, equals))), shown(trimmed(all.substr(equals + 1)))});
    }
  }
}

const std::string* RecipeText::find(std::string_view section, std::string_view key) const {
  for (const Section& candidate : sections_) {
    if (candidate.name != section) continue;
    for (const Entry& entry : candidate.entries)
      if (entry.key == key) return &entry.value;
  }
  return nullptr;
}

std::optional<double> RecipeText::number(std::string_view section, std::string_view key) const {
  const std::string* value = find(section, key);
  return value != nullptr ? parse_number(*value) : std::nullopt;
}

std::optional<int64_t> RecipeText::integer(std::string_view section, std::string_view key) const {
  const std::optional<double> value = number(section, key);
  if (!value || *value != std::floor(*value) || std::abs(*value) > 1e15) return std::nullopt;
  return static_cast<int64_t>(*value);
}

std::vector<std::string> RecipeText::strings(std::string_view section, std::string_view key) const {
  const std::string* value = find(section, key);
  std::vector<std::string> result;
  if (value == nullptr) return result;
  std::string_view rest = *value;
  const bool list = rest.starts_with('[');
  if (list) rest.remove_prefix(1);
  while (true) {
    rest = trimmed(rest);
    const std::optional<std::string> item = take_string(rest);
    if (!item) return result;
    result.push_back(*item);
    rest = trimmed(rest);
    if (!list || !rest.starts_with(',')) return result;
    rest.remove_prefix(1);
  }
}

std::string RecipeText::string(std::string_view section, std::string_view key) const {
  const std::vector<std::string> all = strings(section, key);
  return all.empty() ? "" : all.front();
}

}  // namespace lace::report
