#include "kernels/cpu/attention_backward_tile.h"
#include "kernels/cpu/simd_avx512.h"

namespace lace::cpu {

constinit const BackwardTypeOps kBackwardAvx512Bf16 =
    Backward<Avx512Bf16, BFloat16, Operands::kPairs>::ops();

}  // namespace lace::cpu
