#include "lace/recipe.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <type_traits>

#include <toml++/toml.h>

#include "core/edit_distance.h"
#include "core/safe_text.h"
#include "train/recipe_fields.h"

namespace lace {
namespace {

constexpr size_t kMaxText = size_t{1} << 20;
constexpr int kMaxBrackets = 8, kMaxDots = 8;  // of values in each other; of one key

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
    const Place place{"--set " + printable(text.substr(0, text.find('='))), true};
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
