#pragma once

#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "report/run.h"

namespace lace::report {

// What is compared of a run.
struct ComparedRun {
  std::string name, pattern;
  std::optional<int64_t> parameters;
  int64_t steps = 0;
  std::optional<double> bytes;  // trained on
  double elapsed_s = 0;
  std::optional<double> tokens_per_s;      // over the whole run
  std::optional<double> best, last;        // validations, bits a byte
  std::optional<double> at_step, at_time;  // at Comparison::step and elapsed_s
  State state = State::kStopped;
};

// Runs side by side: the paper's Table 2 for runs of one's own.
struct Comparison {
  std::vector<ComparedRun> rows;
  // The last step, and the last moment of training, that all runs have validations up to: there
  // each run's curve of validations is read, straight between two of them. 0 where one has none.
  double step = 0, elapsed_s = 0;
  std::string step_of, elapsed_of;  // the run that got no further; "" where all end there
  std::vector<std::string> notes;   // why figures are not comparable, a line each
  // Keys of recipes, "section.key", that differ, and the value of each run ("" where it has none).
  std::vector<std::pair<std::string, std::vector<std::string>>> settings;
};

// runs: at least one.
Comparison compare(const std::vector<Run>& runs);

// docs/json.md
nlohmann::ordered_json comparison_json(const Comparison& comparison);

// Bits a byte of validation, or of training where a run has no validation, over steps, bytes and
// time: as a page with the table, and as an SVG that stands alone.
std::string comparison_html(const std::vector<Run>& runs, const Comparison& comparison);
std::string comparison_svg(const std::vector<Run>& runs);

}  // namespace lace::report
