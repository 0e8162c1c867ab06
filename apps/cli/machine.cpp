#include "machine.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <sstream>
#include <string_view>

#include <sched.h>

namespace lace::cli {

namespace {

constexpr std::array<std::string_view, 12> kFeatures = {
    "sse4_2",   "avx",      "f16c",     "fma",         "avx2",     "avx512f",
    "avx512bw", "avx512dq", "avx512vl", "avx512_bf16", "amx_tile", "amx_bf16"};

std::string after_colon(const std::string& line) {
  const size_t colon = line.find(": ");
  return colon == std::string::npos ? "" : line.substr(colon + 2);
}

}  // namespace

Machine this_machine() {
  Machine machine;
  cpu_set_t set;
  machine.cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  std::ifstream cpuinfo("/proc/cpuinfo");
  bool seen_flags = false;
  for (std::string line; std::getline(cpuinfo, line) && !seen_flags;) {
    if (line.rfind("model name", 0) == 0) machine.processor = after_colon(line);
    if (line.rfind("flags", 0) != 0) continue;
    seen_flags = true;
    std::istringstream flags(after_colon(line));
    for (std::string flag; flags >> flag;) {
      if (std::find(kFeatures.begin(), kFeatures.end(), flag) != kFeatures.end()) {
        machine.features.push_back(flag);
      }
    }
  }
  return machine;
}

}  // namespace lace::cli
