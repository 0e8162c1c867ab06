#include "lace/recipe.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <type_traits>

#include <toml++/toml.h>

#include "lace/data.h"

#include "core/edit_distance.h"
#include "core/safe_text.h"
#include "train/recipe_fields.h"

namespace lace {
namespace {

constexpr size_t kMaxText = size_t{1} << 20;
constexpr int kMaxBrackets = 8, kMaxDots = 8;  // of values in each other; of one key
constexpr int kMaxBases = 4;                   // recipes that build on one another

// The place just past the string that begins at `at`; a string on one line ends with the line.
size_t past_string(std::string_view text, size_t at) {
  const char quote = text[at];
  const std::string_view triple = quote == '"' ? R"(""")" : "'''";
  const bool several = text.substr(at, 3) == triple;
  for (at += several ? 3 : 1; at < text.size(); ++at) {
    if (quote == '"' && text[at] == '\\') {
      ++at;
    } else if (several ? text.substr(at, 3) == triple : text[at] == quote) {
      return at + (several ? 3 : 1);
    } else if (!several && text[at] == '\n') {
      return at;
    }
  }
  return text.size();
}

// Whether a section's name may begin past the '[' at `at`: toml++ takes for granted that it does.
bool names_section(std::string_view text, size_t at) {
  const auto skip_blanks = [&] {
    while (++at < text.size() && (text[at] == ' ' || text[at] == '\t')) continue;
  };
  skip_blanks();
  if (at < text.size() && text[at] == '[') skip_blanks();
  const char c = at < text.size() ? text[at] : ']';
  return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || ('0' <= c && c <= '9') ||
         std::string_view("_-\"']").find(c) != std::string_view::npos;
}

// Throws where text is much larger or deeper than sections of keys, of which some are lists: each
// level would take frames of the stack, in the parser and once more when its tables are freed.
void check_bounds(std::string_view text, const std::string& source) {
  LACE_CHECK(text.size() <= kMaxText, "[recipe] ", source, " must have at most ", kMaxText,
             " bytes, got ", text.size());
  int brackets = 0, dots = 0;
  int64_t line = 1;
  bool line_begins = true;
  for (size_t at = text.starts_with("\xEF\xBB\xBF") ? 3 : 0; at < text.size();) {
    const char c = text[at];
    if (c == '[' && line_begins && brackets == 0) {
      LACE_CHECK(names_section(text, at), "[recipe] ", source, ":", line,
                 ": a section must have a name of letters, digits, _ and -, or in quotes");
    }
    // TOML says so too, but toml++ has no case for some characters.
    LACE_CHECK((32 <= c && c < 127) || c == '\t' || c == '\n' || c == '\r', "[recipe] ", source,
               ":", line, ": outside strings and comments a recipe must be printable ASCII, got ",
               printable({&c, 1}));
    line_begins = c == '\n' || (line_begins && (c == ' ' || c == '\t' || c == '\r'));
    if (c == '"' || c == '\'') {
      const size_t past = past_string(text, at);
      line += std::count(text.begin() + static_cast<int64_t>(at),
                         text.begin() + static_cast<int64_t>(past), '\n');
      at = past;
      continue;
    }
    ++at;
    if (c == '#') at = std::min(text.find('\n', at), text.size());
    if (c == '\n') ++line;
    if (c == '[' || c == '{') ++brackets;
    if (c == ']' || c == '}') brackets = std::max(0, brackets - 1);
    if (c == '.') ++dots;
    if (std::string_view("\n=,[]{}").find(c) != std::string_view::npos) dots = 0;
    LACE_CHECK(brackets <= kMaxBrackets, "[recipe] ", source, ":", line,
               ": values must nest at most ", kMaxBrackets, " deep");
    LACE_CHECK(dots <= kMaxDots, "[recipe] ", source, ":", line, ": a key must have at most ",
               kMaxDots, " dots");
  }
}

// Where a value stands: "demo.toml:12" or "--set model.layers".
struct Place {
  std::string source;
  bool is_override = false;
  std::string operator()(const toml::node& node) const {
    return is_override ? source : concat(source, ":", node.source().begin.line);
  }
};

[[noreturn]] void wrong_type(const std::string& where, const std::string& key, const char* expected,
                             const toml::node& node) {
  std::ostringstream value;
  value << toml::node_view<const toml::node>(node);
  throw Error(
      concat("[recipe] ", where, ": ", key, " is ", expected, ", got ", printable(value.str())));
}

// Sets one field from a TOML value.
class Assign {
 public:
  Assign(const toml::node& node, std::string key, std::string where)
      : node_(node), key_(std::move(key)), where_(std::move(where)) {}

  void operator()(bool& field) const {
    if (!node_.is_boolean()) wrong_type(where_, key_, "true or false", node_);
    field = **node_.as_boolean();
  }
  void operator()(int64_t& field) const {
    if (!node_.is_integer()) wrong_type(where_, key_, "a whole number", node_);
    field = **node_.as_integer();
  }
  void operator()(uint64_t& field) const {
    int64_t value = 0;
    (*this)(value);
    if (value < 0) wrong_type(where_, key_, "a whole number of at least 0", node_);
    field = static_cast<uint64_t>(value);
  }
  void operator()(double& field) const {
    if (!node_.is_number()) wrong_type(where_, key_, "a number", node_);
    field = *node_.value<double>();
  }
  void operator()(std::string& field) const {
    if (!node_.is_string()) wrong_type(where_, key_, "a string", node_);
    field = path_bytes(**node_.as_string());
  }
  void operator()(std::vector<std::string>& field) const {
    field.clear();
    if (node_.is_string()) {
      field.push_back(path_bytes(**node_.as_string()));
      return;
    }
    if (!node_.is_array()) wrong_type(where_, key_, "a string or a list of strings", node_);
    for (const toml::node& element : *node_.as_array()) {
      if (!element.is_string()) wrong_type(where_, key_, "a string or a list of strings", node_);
      field.push_back(path_bytes(**element.as_string()));
    }
  }
  void operator()(Precision& field) const { parse(field, parse_precision); }
  void operator()(PositionKind& field) const { parse(field, parse_position_kind); }
  void operator()(RotaryScaling& field) const { parse(field, parse_rotary_scaling); }
  void operator()(ResidualType& field) const { parse(field, parse_residual_type); }
  void operator()(LinearInit& field) const { parse(field, parse_linear_init); }
  void operator()(DataKind& field) const { parse(field, parse_data_kind); }
  void operator()(SplitBy& field) const { parse(field, parse_split_by); }
  void operator()(ImageResize& field) const { parse(field, parse_image_resize); }

 private:
  template <typename Enum>
  void parse(Enum& field, Enum (*from_text)(std::string_view)) const {
    std::string text;
    (*this)(text);
    try {
      field = from_text(text);
    } catch (const Error& error) {
      throw Error(concat("[recipe] ", where_, ": ", error.what()));
    }
  }

  const toml::node& node_;
  std::string key_, where_;
};

template <typename Section>
void assign_section(Section& section, const std::string& name, const toml::table& table,
                    const Place& place) {
  std::vector<std::string_view> known;
  train::visit_fields(section, [&](const char* key, auto&) { known.emplace_back(key); });
  for (const auto& [entry_key, entry_node] : table) {
    const toml::key& key = entry_key;  // a lambda cannot capture the names of a binding
    const toml::node& node = entry_node;
    bool found = false;
    train::visit_fields(section, [&](const char* field_key, auto& field) {
      if (key.str() != field_key) return;
      Assign(node, name + "." + field_key, place(node))(field);
      found = true;
    });
    LACE_CHECK(found, "[recipe] ", place(node), ": unknown key ", name, ".", printable(key.str()),
               "; the nearest is ", name, ".", nearest_name(key.str(), known));
  }
}

void assign_recipe(Recipe& recipe, const toml::table& table, const Place& place) {
  std::vector<std::string_view> known = {"name"};
  train::visit_sections(recipe, [&](const char* name, auto&) { known.emplace_back(name); });
  for (const auto& [entry_key, entry_node] : table) {
    const toml::key& key = entry_key;  // a lambda cannot capture the names of a binding
    const toml::node& node = entry_node;
    if (key.str() == "name") {
      Assign(node, "name", place(node))(recipe.name);
      continue;
    }
    bool found = false;
    train::visit_sections(recipe, [&](const char* name, auto& section) {
      if (key.str() != name) return;
      if (!node.is_table()) wrong_type(place(node), name, "a section", node);
      assign_section(section, name, *node.as_table(), place);
      found = true;
    });
    LACE_CHECK(found, "[recipe] ", place(node), ": unknown section [", printable(key.str()),
               "]; the nearest is ", nearest_name(key.str(), known));
  }
}

toml::table parse_toml(std::string_view text, const std::string& source) {
  check_bounds(text, source);
  try {
    return toml::parse(text, source);
  } catch (const toml::parse_error& error) {
    throw Error(concat("[recipe] ", source, ":", error.source().begin.line, ": ",
                       printable(error.description())));
  }
}

// The value of an override as TOML; text that is no TOML value is a string.
toml::table override_table(const std::string& override_text) {
  const size_t equals = override_text.find('=');
  const size_t dot = override_text.find('.');
  const bool named = override_text.starts_with("name=");
  LACE_CHECK(equals != std::string::npos && (named || dot < equals),
             "[recipe] --set takes section.key=value, got ", printable(override_text));
  const std::string key = override_text.substr(0, equals);
  const std::string value = override_text.substr(equals + 1);
  const std::string text = concat(key, " = ", value);
  try {
    check_bounds(text, "--set");
    return toml::parse(text);
  } catch (const std::runtime_error&) {  // bounds, or TOML's own error
    toml::table leaf;
    if (named) {
      leaf.insert("name", value);
      return leaf;
    }
    leaf.insert(key.substr(dot + 1), value);
    toml::table table;
    table.insert(key.substr(0, dot), std::move(leaf));
    return table;
  }
}

// TOML is UTF-8, a path any bytes.
std::string quoted(const std::string& text) {
  std::ostringstream out;
  out << toml::value<std::string>(path_text(text));
  return out.str();
}

struct Print {
  std::ostream& out;
  void operator()(bool v) const { out << (v ? "true" : "false"); }
  void operator()(int64_t v) const { out << v; }
  void operator()(uint64_t v) const { out << v; }
  // The shortest that reads back as it is.
  void operator()(double v) const {
    char text[32];
    const char* end = std::to_chars(text, text + sizeof text, v).ptr;
    const std::string_view digits(text, static_cast<size_t>(end - text));
    out << digits << (digits.find_first_of(".einf") == std::string_view::npos ? ".0" : "");
  }
  void operator()(const std::string& v) const { out << quoted(v); }
  void operator()(const std::vector<std::string>& v) const {
    out << "[";
    for (size_t i = 0; i < v.size(); ++i) out << (i ? ", " : "") << quoted(v[i]);
    out << "]";
  }
  void operator()(Precision v) const { out << quoted(std::string(name(v))); }
  void operator()(PositionKind v) const { out << quoted(std::string(name(v))); }
  void operator()(RotaryScaling v) const { out << quoted(std::string(name(v))); }
  void operator()(ResidualType v) const { out << quoted(std::string(name(v))); }
  void operator()(LinearInit v) const { out << quoted(std::string(name(v))); }
  void operator()(DataKind v) const { out << quoted(std::string(name(v))); }
  void operator()(SplitBy v) const { out << quoted(std::string(name(v))); }
  void operator()(ImageResize v) const { out << quoted(std::string(name(v))); }
};

std::string read_text(const std::string& path) {
  std::error_code failure;
  const auto status = std::filesystem::status(path, failure);
  LACE_CHECK(std::filesystem::status_known(status), "[recipe] cannot read ", path, ": ",
             failure.message());
  LACE_CHECK(std::filesystem::exists(status), "[recipe] no such file: ", path);
  LACE_CHECK(!std::filesystem::is_directory(status), "[recipe] ", path,
             " is a folder, a recipe is a file");
  std::ifstream file(path, std::ios::binary);
  LACE_CHECK(file, "[recipe] cannot open ", path, ": ", std::strerror(errno));
  std::string text(kMaxText + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  LACE_CHECK(!file.bad(), "[recipe] cannot read ", path, ": ", std::strerror(errno));
  text.resize(static_cast<size_t>(file.gcount()));
  LACE_CHECK(text.size() <= kMaxText, "[recipe] a recipe has at most ", kMaxText, " bytes, ", path,
             " has more");
  return text;
}

// Assigns the recipe that this one names as its base, then its own keys.
void assign_with_base(Recipe& recipe, std::string_view text, const std::string& source, int bases) {
  toml::table table = parse_toml(text, source);
  if (const toml::node* node = table.get("base")) {
    std::string base;
    Assign(*node, "base", Place{source}(*node))(base);
    LACE_CHECK(bases < kMaxBases, "[recipe] ", Place{source}(*node), ": at most ", kMaxBases,
               " recipes may build on one another, got base = ", printable(base));
    const std::string path = (std::filesystem::path(source).parent_path() / base).native();
    std::error_code absent;
    LACE_CHECK(std::filesystem::is_regular_file(path, absent), "[recipe] ", Place{source}(*node),
               ": base must name a recipe's file, got ", printable(path));
    assign_with_base(recipe, read_text(path), path, bases + 1);
    recipe.name.clear();
    table.erase("base");
  }
  assign_recipe(recipe, table, {source});
}

}  // namespace

Recipe parse_recipe(std::string_view text, const std::string& source,
                    const std::vector<std::string>& overrides) {
  Recipe recipe;
  assign_with_base(recipe, text, source, 0);
  for (const std::string& text : overrides) {
    const Place place{"--set " + printable(text.substr(0, text.find('='))), true};
    assign_recipe(recipe, override_table(text), place);
  }
  recipe.check();
  return recipe;
}

Recipe load_recipe(const std::string& path, const std::vector<std::string>& overrides) {
  return parse_recipe(read_text(path), path, overrides);
}

std::string to_toml(const Recipe& recipe) {
  Recipe copy = recipe;
  std::ostringstream out;
  out << "name = " << quoted(recipe.name) << "\n";
  train::visit_sections(copy, [&](const char* section_name, auto& section) {
    out << "\n[" << section_name << "]\n";
    train::visit_fields(section, [&](const char* key, const auto& field) {
      out << key << " = ";
      Print{out}(field);
      out << "\n";
    });
  });
  return out.str();
}

}  // namespace lace
