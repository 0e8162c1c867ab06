#include "lace/recipe.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <type_traits>

#include <toml++/toml.h>

#include "train/recipe_fields.h"

namespace lace {
namespace {

constexpr size_t kMaxRecipeBytes = 1 << 20;  // a file that is no recipe is not read into memory

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = std::exchange(row[j], std::min({change, row[j] + 1, row[j - 1] + 1}));
    }
  }
  return row[b.size()];
}

std::string nearest(std::string_view wrong, const std::vector<std::string>& known) {
  return *std::min_element(known.begin(), known.end(), [&](const auto& a, const auto& b) {
    return edit_distance(wrong, a) < edit_distance(wrong, b);
  });
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
  throw Error(concat("[recipe] ", where, ": ", key, " is ", expected, ", got ", value.str()));
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
    field = **node_.as_string();
  }
  void operator()(std::vector<std::string>& field) const {
    field.clear();
    if (node_.is_string()) {
      field.push_back(**node_.as_string());
      return;
    }
    if (!node_.is_array()) wrong_type(where_, key_, "a string or a list of strings", node_);
    for (const toml::node& element : *node_.as_array()) {
      if (!element.is_string()) wrong_type(where_, key_, "a string or a list of strings", node_);
      field.push_back(**element.as_string());
    }
  }
  void operator()(Precision& field) const { parse(field, parse_precision); }
  void operator()(PositionKind& field) const { parse(field, parse_position_kind); }
  void operator()(LinearInit& field) const { parse(field, parse_linear_init); }

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
  std::vector<std::string> known;
  train::visit_fields(section, [&](const char* key, auto&) { known.emplace_back(key); });
  for (const auto& [key, node] : table) {
    bool found = false;
    train::visit_fields(section, [&](const char* field_key, auto& field) {
      if (key.str() != field_key) return;
      Assign(node, name + "." + field_key, place(node))(field);
      found = true;
    });
    LACE_CHECK(found, "[recipe] ", place(node), ": unknown key ", name, ".", key.str(),
               "; the nearest is ", name, ".", nearest(key.str(), known));
  }
}

void assign_recipe(Recipe& recipe, const toml::table& table, const Place& place) {
  std::vector<std::string> known = {"name"};
  train::visit_sections(recipe, [&](const char* name, auto&) { known.emplace_back(name); });
  for (const auto& [key, node] : table) {
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
    LACE_CHECK(found, "[recipe] ", place(node), ": unknown section [", key.str(),
               "]; the nearest is ", nearest(key.str(), known));
  }
}

toml::table parse_toml(std::string_view text, const std::string& source) {
  try {
    return toml::parse(text, source);
  } catch (const toml::parse_error& error) {
    throw Error(
        concat("[recipe] ", source, ":", error.source().begin.line, ": ", error.description()));
  }
}

// The value of an override as TOML; text that is no TOML value is a string.
toml::table override_table(const std::string& override_text) {
  const size_t equals = override_text.find('=');
  const size_t dot = override_text.find('.');
  const bool named = override_text.starts_with("name=");
  LACE_CHECK(equals != std::string::npos && (named || dot < equals),
             "[recipe] --set takes section.key=value, got ", override_text);
  const std::string key = override_text.substr(0, equals);
  const std::string value = override_text.substr(equals + 1);
  try {
    return toml::parse(concat(key, " = ", value));
  } catch (const toml::parse_error&) {
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

std::string quoted(const std::string& text) {
  std::ostringstream out;
  out << toml::value<std::string>(text);
  return out.str();
}

struct Print {
  std::ostream& out;
  void operator()(bool v) const { out << (v ? "true" : "false"); }
  void operator()(int64_t v) const { out << v; }
  void operator()(uint64_t v) const { out << v; }
  void operator()(double v) const { out << toml::value<double>(v); }
  void operator()(const std::string& v) const { out << quoted(v); }
  void operator()(const std::vector<std::string>& v) const {
    out << "[";
    for (size_t i = 0; i < v.size(); ++i) out << (i ? ", " : "") << quoted(v[i]);
    out << "]";
  }
  void operator()(Precision v) const { out << quoted(std::string(name(v))); }
  void operator()(PositionKind v) const { out << quoted(std::string(name(v))); }
  void operator()(LinearInit v) const { out << quoted(std::string(name(v))); }
};

}  // namespace

Recipe parse_recipe(std::string_view text, const std::string& source,
                    const std::vector<std::string>& overrides) {
  Recipe recipe;
  assign_recipe(recipe, parse_toml(text, source), {source});
  for (const std::string& text : overrides) {
    const Place place{"--set " + text.substr(0, text.find('=')), true};
    assign_recipe(recipe, override_table(text), place);
  }
  recipe.check();
  return recipe;
}

Recipe load_recipe(const std::string& path, const std::vector<std::string>& overrides) {
  std::error_code failure;
  const auto status = std::filesystem::status(path, failure);
  LACE_CHECK(std::filesystem::status_known(status), "[recipe] cannot read ", path, ": ",
             failure.message());
  LACE_CHECK(std::filesystem::exists(status), "[recipe] no such file: ", path);
  LACE_CHECK(!std::filesystem::is_directory(status), "[recipe] ", path,
             " is a folder, a recipe is a file");
  std::ifstream file(path, std::ios::binary);
  LACE_CHECK(file, "[recipe] cannot open ", path, ": ", std::strerror(errno));
  std::string text(kMaxRecipeBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  LACE_CHECK(!file.bad(), "[recipe] cannot read ", path, ": ", std::strerror(errno));
  text.resize(static_cast<size_t>(file.gcount()));
  LACE_CHECK(text.size() <= kMaxRecipeBytes, "[recipe] a recipe has at most ", kMaxRecipeBytes,
             " bytes, ", path, " has more");
  return parse_recipe(text, path, overrides);
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
