#pragma once

#include <string>

#include "plan/plan.h"

namespace lace::testing {

// Empty, or the first promise of plan.h that the plan breaks: sizes and positions inside their
// bounds; each row listed once by the first pass and at most once by others; chains that share no
// others; the pairs of `attends`, each once; the counts of live and computed pairs.
std::string check_plan(const Plan& plan);

// compile() and check_plan() of a pattern and of its transpose; the texts of what fails.
std::string check_pattern(const std::string& pattern, int64_t heads, int64_t q_len, int64_t k_len,
                          TileShape tile);

}  // namespace lace::testing
