#include "arguments.h"

#include <charconv>
#include <cmath>

#include "lace/error.h"

#include "core/edit_distance.h"
#include "core/home.h"

namespace lace::cli {

namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

// Whether all of `text` is one number of this type, which `value` becomes.
template <typename Number>
bool parse(const std::string& text, Number& value) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  return error == std::errc{} && stop == end;
}

std::string range_text(const auto& lowest, const auto& highest, bool limited) {
  return limited ? concat("from ", lowest, " to ", highest) : concat(">= ", lowest);
}

// ", did you mean X?" where one of the names is near.
std::string suggestion(const std::string& given, const std::vector<std::string>& names) {
  std::string best;
  size_t least = std::min<size_t>(3, given.size() / 2 + 1);
  for (const std::string& name : names) {
    const size_t distance = edit_distance(given.substr(0, 64), name);
    if (distance >= least) continue;
    best = name;
    least = distance;
  }
  return best.empty() ? "" : "; did you mean " + best + "?";
}

std::vector<std::string> option_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

std::vector<std::string> subcommand_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::App* sub : command.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(sub->get_name());
  }
  return names;
}

}  // namespace

CLI::Validator whole_number(int64_t lowest, int64_t highest) {
  const std::string range = range_text(lowest, highest, highest != kNoLimit);
  return CLI::Validator(
      [=](std::string& text) {
        int64_t value = 0;
        if (!parse(text, value) || value < lowest || value > highest) {
          return concat("takes a whole number ", range, ", got '", text, "'");
        }
        text = std::to_string(value);  // without leading zeros, which CLI11 takes for octal
        return std::string();
      },
      range);
}

CLI::Validator number(double lowest, double highest) {
  const std::string range =
      range_text(lowest, highest, highest != std::numeric_limits<double>::max());
  return CLI::Validator(
      [=](std::string& text) {
        double value = 0;
        const bool fits = parse(text, value) && lowest <= value && value <= highest;
        return fits ? std::string() : concat("takes a number ", range, ", got '", text, "'");
      },
      range);
}

CLI::Validator path() {
  return CLI::Validator(
      [](std::string& text) {
        text = expand_home(text);
        return std::string(text.empty() ? "takes a path, got ''" : "");
      },
      "");
}

std::string unknown_argument(const CLI::App& command) {
  const std::vector<std::string> rest = command.remaining();
  if (rest.empty()) return "";
  const std::string of = command.get_parent() == nullptr ? "" : " of " + command.get_name();
  const std::string given = rest.front().substr(0, rest.front().find('='));
  if (given.size() > 1 && given.front() == '-') {
    return concat("there is no option ", given, of, suggestion(given, option_names(command)));
  }
  const std::vector<std::string> names = subcommand_names(command);
  if (names.empty()) return concat("unexpected argument '", rest.front(), "'");
  std::string known;
  for (const std::string& name : names) known += (known.empty() ? "" : ", ") + name;
  return concat("there is no subcommand '", rest.front(), "'", of, ", there are ", known,
                suggestion(rest.front(), names));
}

}  // namespace lace::cli
