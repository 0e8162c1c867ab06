#include "core/instruction_set.h"

#include <cstdlib>
#include <string_view>

namespace lace {
namespace {

// What the processor and the operating system offer, as __builtin_cpu_supports tells; a macro,
// because that takes a literal.
#define LACE_NEEDS(feature) \
  if (!__builtin_cpu_supports(feature)) return "the processor lacks " feature

#if defined(__x86_64__)
std::string lacks_avx2() {
  LACE_NEEDS("avx2");
  LACE_NEEDS("fma");
#if !defined(__clang__)  // whose older versions cannot ask; every processor with AVX2 has it
  LACE_NEEDS("f16c");
#endif
  return "";
}

std::string lacks_avx512() {
  LACE_NEEDS("avx512f");
  LACE_NEEDS("avx512bw");
  LACE_NEEDS("avx512dq");
  LACE_NEEDS("avx512vl");
  return lacks_avx2();
}
#else
std::string lacks_avx2() { return "the processor is not an x86-64"; }
std::string lacks_avx512() { return lacks_avx2(); }
#endif

InstructionSet best() {
  static const InstructionSet set = lacks_avx512().empty() ? InstructionSet::kAvx512
                                    : lacks_avx2().empty() ? InstructionSet::kAvx2
                                                           : InstructionSet::kPortable;
  return set;
}

}  // namespace

std::string lacks(InstructionSet set) {
  switch (set) {
    case InstructionSet::kAvx512:
      return lacks_avx512();
    case InstructionSet::kAvx2:
      return lacks_avx2();
    default:
      return "";
  }
}

std::string lacks_avx512_bf16() {
#if defined(__x86_64__)
  LACE_NEEDS("avx512bf16");
#endif
  return lacks_avx512();
}

InstructionSet instruction_set() {
  const char* named = std::getenv("LACE_KERNEL");
  if (named == nullptr || *named == '\0') return best();
  const std::string_view kernel = named;
  const InstructionSet set = kernel.starts_with("cpu_avx512") ? InstructionSet::kAvx512
                             : kernel == "cpu_avx2"           ? InstructionSet::kAvx2
                             : kernel == "cpu_portable" || kernel == "reference"
                                 ? InstructionSet::kPortable
                                 : best();
  return set < best() ? set : best();
}

bool has_bf16_dots() {
  static const bool available = lacks_avx512_bf16().empty();
  if (!available || instruction_set() != InstructionSet::kAvx512) return false;
  const char* named = std::getenv("LACE_KERNEL");
  return named == nullptr || std::string_view(named) != "cpu_avx512";
}

}  // namespace lace
