#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lace::report {

// A recipe as a run keeps it (`recipe.toml`, one `key = value` a line below `[section]`), read for
// showing: any text passes, of any version, and nothing of it is checked.
class RecipeText {
 public:
  struct Entry {
    std::string key, value;  // the value as it stands, numbers with their shortest digits
  };
  struct Section {
    std::string name;  // "" above the first
    std::vector<Entry> entries;
  };

  RecipeText() = default;
  // Lines past the first 2,000 and bytes of a line past the first 2,000 are left out.
  explicit RecipeText(std::string_view text);

  const std::vector<Section>& sections() const { return sections_; }
  bool empty() const { return sections_.empty(); }

  // Values by section and key; nothing where there is none or it is of another kind.
  std::optional<double> number(std::string_view section, std::string_view key) const;
  std::optional<int64_t> integer(std::string_view section, std::string_view key) const;
  // A string without its quotes, or the strings of a list; else nothing.
  std::vector<std::string> strings(std::string_view section, std::string_view key) const;
  std::string string(std::string_view section, std::string_view key) const;  // "" if there is none

 private:
  const std::string* find(std::string_view section, std::string_view key) const;
  std::vector<Section> sections_;
};

}  // namespace lace::report
