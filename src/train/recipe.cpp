#include "lace/recipe.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <type_traits>

#include <toml++/toml.h>

#include "lace/data.h"

#include "train/recipe_fields.h"

namespace lace {
namespace {

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
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (file) text << file.rdbuf();
  LACE_CHECK(file && !file.bad(), "[recipe] cannot read ", path);
  return parse_recipe(text.str(), path, overrides);
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

void Recipe::check() const {
  model.check();
  LACE_CHECK(model.vocab == 256 || data.paths.empty(),
             "[recipe] bytes need model.vocab = 256, got ", model.vocab);
  LACE_CHECK(data.validation_fraction >= 0 && data.test_fraction >= 0 &&
                 data.validation_fraction + data.test_fraction < 1,
             "[data] the fractions for validation and test must be at least 0 and leave some for "
             "train, got ",
             data.validation_fraction, " and ", data.test_fraction);
  LACE_CHECK(data.record_bytes == 0 || data.record_bytes == model.seq_len,
             "[data] record_bytes is 0 or model.seq_len (", model.seq_len, "), got ",
             data.record_bytes);
  const auto positive = [](const char* key, auto value) {
    LACE_CHECK(value > 0, "[recipe] ", key, " must be above 0, got ", value);
  };
  const auto not_negative = [](const char* key, auto value) {
    LACE_CHECK(value >= 0, "[recipe] ", key, " must be at least 0, got ", value);
  };
  const auto fraction = [](const char* key, double value) {
    LACE_CHECK(value >= 0 && value < 1, "[recipe] ", key, " must be in [0, 1), got ", value);
  };
  not_negative("optimizer.learning_rate", optimizer.learning_rate);
  not_negative("optimizer.warmup_steps", optimizer.warmup_steps);
  fraction("optimizer.beta1", optimizer.beta1);
  fraction("optimizer.beta2", optimizer.beta2);
  not_negative("optimizer.epsilon", optimizer.epsilon);
  not_negative("optimizer.weight_decay", optimizer.weight_decay);
  not_negative("optimizer.clip_norm", optimizer.clip_norm);
  fraction("optimizer.ema", optimizer.ema);
  positive("train.batch", train.batch);
  positive("train.accumulate", train.accumulate);
  not_negative("train.steps", train.steps);
  not_negative("train.max_minutes", train.max_minutes);
  LACE_CHECK(train.steps > 0 || train.max_minutes > 0,
             "[recipe] train.steps or train.max_minutes must end the run, both are 0");
  not_negative("train.validate_every", train.validate_every);
  positive("train.validate_windows", train.validate_windows);
  not_negative("train.checkpoint_every", train.checkpoint_every);
  positive("eval.batch", eval.batch);
  LACE_CHECK(eval.min_context >= 0 && eval.min_context < model.seq_len,
             "[recipe] eval.min_context must be in [0, model.seq_len), got ", eval.min_context);
}

}  // namespace lace
