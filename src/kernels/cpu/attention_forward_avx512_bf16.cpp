#include "kernels/cpu/attention_forward_tile.h"
#include "kernels/cpu/simd_avx512.h"

namespace lace::cpu {

constinit const ForwardTypeOps kForwardAvx512Bf16 =
    Forward<Avx512Bf16, BFloat16, Operands::kPairs>::ops();

}  // namespace lace::cpu
