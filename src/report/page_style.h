#pragma once

#include <string_view>

namespace lace::report {

// The style and the script of every page, of reports and comparisons. A page's policy allows this
// script alone, by its hash: nothing that a sample or a name smuggles in would run.
extern const std::string_view kStyle, kScript, kScriptHash;

// A page's beginning up to <main> and its end; `title` is any bytes. state: "" or what the script
// should know of the run ("training": look for news now and then).
std::string page_begin(std::string_view title, std::string_view state);
std::string page_end();

// The switch of what lies across in charts; the radio buttons themselves stand in page_begin.
extern const std::string_view kSwitch;

}  // namespace lace::report
