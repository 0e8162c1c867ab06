#pragma once

#include <string>
#include <vector>

namespace lace::cli {

// A row of the table: a recipe of the paper with some of its fields set.
struct StepCase {
  std::string name;    // as "enwik8-fixed-dropout0-keep"
  std::string recipe;  // its file's name
  std::vector<std::string> overrides;
};

// enwik8, cifar10 and imagenet64, 49,152 symbols a step, × dense and their sparse patterns: the
// recipe's own and one of the other kind × dropout 0 (dropout0) and the recipe's (dropout) ×
// activations kept (keep) and recomputed (recompute).
std::vector<StepCase> step_table();

}  // namespace lace::cli
