#pragma once

#include <string>

namespace lace {

// "~" and "~/…" as a shell expands them: $HOME, or without it the home of the user's entry. Other
// texts stay as they are.
std::string expand_home(const std::string& path);

}  // namespace lace
