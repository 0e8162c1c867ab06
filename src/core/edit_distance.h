#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace lace {

// The fewest edits (insert, delete or replace a character, swap two neighbours) that turn a into b,
// where none touches a character twice. Time and memory grow as a.size() · b.size().
size_t edit_distance(std::string_view a, std::string_view b);

// The known name nearest to `name`, of whose first 64 characters only are looked at: the first of
// several as near. `known` holds at least one.
std::string_view nearest_name(std::string_view name, std::span<const std::string_view> known);

}  // namespace lace
