#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

namespace lace {

struct JsonLimits {
  size_t bytes = size_t{16} << 20;
  int depth = 32;  // of arrays and objects in each other
};

// Parses one JSON document that others may have written. `where` names it in errors, as
// "[run] runs/a/last.json".
// Throws lace::Error if it is larger or nests deeper than `limits` allow, before anything is made
// of it that would need a deep stack; if it is no JSON; or if an object holds a key twice.
nlohmann::json parse_json(std::string_view text, const std::string& where,
                          const JsonLimits& limits = {});

// The same for a file, which errors name as `room` in brackets and its path.
// Throws lace::Error also as RegularFile.
nlohmann::json read_json(const std::string& path, const std::string& room,
                         const JsonLimits& limits = {});

}  // namespace lace
