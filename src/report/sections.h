#pragma once

#include <string>

#include "report/run.h"

namespace lace::report {

// Parts of a report's page, each "" where a run has nothing for it.
std::string samples_section(const Run& run);
std::string attention_section(const Run& run);
std::string baselines_section(const Run& run);
// picture: of the patterns, if it is to stand there.
std::string settings_section(const Run& run, const std::string& picture);

// Names and figures as a table of two columns.
std::string pairs_table(const std::vector<std::pair<std::string, std::string>>& rows);

}  // namespace lace::report
