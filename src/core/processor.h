#pragma once

#include <string>
#include <vector>

namespace lace {

// The processor that this process runs on.
struct Processor {
  std::string name = "unknown";       // as the system's kernel names it
  int cores = 1;                      // that this process may use
  std::vector<std::string> features;  // of those that matter to lace's kernels, by /proc/cpuinfo
};

Processor this_processor();

}  // namespace lace
