// The table of decoding: of CPUs.

#include "kernels/decode/cpu/cpu_decode.h"

namespace lace {

const DecodeKernels& decode_kernels() { return cpu::decode_kernels(); }

}  // namespace lace
