#pragma once

#include <string_view>

namespace lace {

// "0.1.0"
std::string_view version();

// The commit that this build was made from, 12 hexadecimal digits, with "-dirty" where the sources
// differed from it; "unknown" outside a git checkout.
std::string_view commit();

}  // namespace lace
