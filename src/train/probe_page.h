#pragma once

#include <span>
#include <string>

#include "lace/probe.h"

namespace lace {

// A probed run, as it is shown.
struct ProbedRun {
  std::string name;     // its folder, in UTF-8
  std::string details;  // checkpoint, patterns, seq_len
  ProbeResult result;
};

// The part of a fresh string's bits that a cell saves, in [0, 1]; 0 where that is not a number.
double saved_share(const CopyCell& cell);

// A self-contained HTML page, for light and dark screens of any width: each run's map of copying,
// one below the other on one scale, and the loss by position of all in one chart.
std::string probe_page(std::span<const ProbedRun> runs);

}  // namespace lace
