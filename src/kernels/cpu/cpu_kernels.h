#pragma once

#include "kernels/kernel.h"

namespace lace::cpu {

// The same kernel for four instruction sets. Constant-initialised, one definition in each
// instruction set's own target.
extern const Kernel kAvx512Bf16;  // cpu_avx512_bf16
extern const Kernel kAvx512;      // cpu_avx512
extern const Kernel kAvx2;        // cpu_avx2
extern const Kernel kPortable;    // cpu_portable

}  // namespace lace::cpu
