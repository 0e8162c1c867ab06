#pragma once

#include "kernels/decode/decode.h"

namespace lace::cpu {

// By instruction set; "cpu_avx512_bf16", "cpu_avx512", "cpu_avx2", "cpu_portable".
const DecodeKernels& decode_kernels();

}  // namespace lace::cpu
