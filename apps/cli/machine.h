#pragma once

#include <string>
#include <vector>

namespace lace::cli {

struct Machine {
  std::string processor;              // as the kernel of the system names it
  int cores = 0;                      // that this process may use
  std::vector<std::string> features;  // of those that matter to lace's kernels, by /proc/cpuinfo
};

Machine this_machine();

}  // namespace lace::cli
