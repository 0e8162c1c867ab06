#pragma once

#include <string>

namespace lace {

// The instruction sets that code on a CPU is compiled for, each on top of the one before. Attention
// has more of the last (bf16 dot products); everything else is chosen among these three.
enum class InstructionSet { kPortable, kAvx2, kAvx512 };

// Empty, or what this machine lacks of `set` ("the processor lacks avx512f").
std::string lacks(InstructionSet set);
// The same of AVX-512 with bf16 dot products.
std::string lacks_avx512_bf16();

// The set that code runs with now: the best of this processor, or, where the environment variable
// LACE_KERNEL names a kernel of a CPU, that kernel's, so that it stands for a whole run.
// `reference` goes with kPortable. A set that this machine lacks is left to the choice of kernels
// to refuse.
InstructionSet instruction_set();
// Whether it goes with AVX-512's bf16 dot products: where this machine has them, unless LACE_KERNEL
// names a kernel without.
bool has_bf16_dots();

#if defined(__x86_64__) && defined(__GNUC__)
#define LACE_AVX2 __attribute__((target("avx2,fma,f16c"), flatten))
#define LACE_AVX512 \
  __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl"), flatten))
#else
#define LACE_AVX2
#define LACE_AVX512
#endif

namespace instruction_sets {

template <auto kBody, typename... Args>
auto portable(Args... args) {
  return kBody(args...);
}
template <auto kBody, typename... Args>
LACE_AVX2 auto avx2(Args... args) {
  return kBody(args...);
}
template <auto kBody, typename... Args>
LACE_AVX512 auto avx512(Args... args) {
  return kBody(args...);
}

}  // namespace instruction_sets

// kBody(args...) in the code that was compiled for instruction_set(). kBody is a function that can
// be inlined whole, as everything that it calls; arguments are passed by value.
template <auto kBody, typename... Args>
auto run_with_best(Args... args) {
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return instruction_sets::avx512<kBody>(args...);
    case InstructionSet::kAvx2:
      return instruction_sets::avx2<kBody>(args...);
    default:
      return instruction_sets::portable<kBody>(args...);
  }
}

}  // namespace lace
