#include "core/bounded_json.h"

#include <set>
#include <vector>

#include <nlohmann/json.hpp>

#include "lace/error.h"

#include "core/regular_file.h"
#include "core/safe_text.h"

namespace lace {

nlohmann::json parse_json(std::string_view text, const std::string& where,
                          const JsonLimits& limits) {
  using Json = nlohmann::json;
  LACE_CHECK(text.size() <= limits.bytes, where, " must have at most ", limits.bytes,
             " bytes of JSON, got ", text.size());
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, Json::parse_event_t event, const Json& value) {
    switch (event) {
      case Json::parse_event_t::object_start:
        keys.emplace_back();
        [[fallthrough]];
      case Json::parse_event_t::array_start:
        LACE_CHECK(depth < limits.depth, where, " must nest at most ", limits.depth, " deep");
        break;
      case Json::parse_event_t::object_end:
        keys.pop_back();
        break;
      case Json::parse_event_t::key: {
        const auto& key = value.get_ref<const std::string&>();
        LACE_CHECK(keys.back().insert(key).second, where, " must name each key once, got ",
                   printable(key), " twice");
        break;
      }
      default:
        break;
    }
    return true;
  };
  Json json = Json::parse(text, check, false);
  LACE_CHECK(!json.is_discarded(), where, " must be JSON");
  return json;
}

nlohmann::json read_json(const std::string& path, const std::string& room,
                         const JsonLimits& limits) {
  const RegularFile file(path, room);
  const std::string where = concat("[", room, "] ", printable(path));
  LACE_CHECK(static_cast<uint64_t>(file.bytes()) <= limits.bytes, where, " must have at most ",
             limits.bytes, " bytes of JSON, got ", file.bytes());
  std::string text(static_cast<size_t>(file.bytes()), '\0');
  file.read(0, text.data(), file.bytes());
  return parse_json(text, where, limits);
}

}  // namespace lace
