#pragma once

#include <string>
#include <string_view>

namespace lace::report {

// Any bytes as text of HTML, for elements and for attributes in quotes: control characters and
// bytes that are no UTF-8 become \xNN (core/safe_text.h), and what has a meaning in HTML a
// reference. Newline and tab stay.
std::string escaped(std::string_view bytes);

// Standard base64, with padding.
std::string base64(std::string_view bytes);

// A finite number with as few digits as give it to `digits` significant ones, "" if it is not
// finite; as JSON and SVG take it.
std::string short_number(double value, int digits = 5);

}  // namespace lace::report
