#pragma once

#include <cstdint>

#include <nlohmann/json_fwd.hpp>

#include "plan/explain.h"

namespace lace {

// The figures of an explanation, as `lace explain --json` prints them (docs/json.md).
// layers: of the stack, which may be enough for full reach or not; 0 if not given.
nlohmann::ordered_json explain_json(const Explanation& all, int64_t layers = 0);

}  // namespace lace
