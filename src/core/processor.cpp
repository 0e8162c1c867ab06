#include "core/processor.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <sstream>
#include <string_view>

#include <sched.h>

namespace lace {
namespace {

constexpr std::array<std::string_view, 12> kFeatures = {
    "sse4_2",   "avx",      "f16c",     "fma",         "avx2",     "avx512f",
    "avx512bw", "avx512dq", "avx512vl", "avx512_bf16", "amx_tile", "amx_bf16"};

std::string after_colon(const std::string& line) {
  const size_t colon = line.find(": ");
  return colon == std::string::npos ? "" : line.substr(colon + 2);
}

}  // namespace

Processor this_processor() {
  Processor processor;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) processor.cores = CPU_COUNT(&set);
  std::ifstream cpuinfo("/proc/cpuinfo");
  bool seen_flags = false;
  for (std::string line; !seen_flags && std::getline(cpuinfo, line);) {
    if (line.starts_with("model name")) processor.name = after_colon(line);
    if (!line.starts_with("flags")) continue;
    seen_flags = true;
    std::istringstream flags(after_colon(line));
    for (std::string flag; flags >> flag;) {
      if (std::ranges::find(kFeatures, flag) != kFeatures.end()) {
        processor.features.push_back(flag);
      }
    }
  }
  return processor;
}

}  // namespace lace
