#include "kernels/cpu/attention_backward_tile.h"
#include "kernels/cpu/simd_avx512.h"

namespace lace::cpu {

constinit const BackwardOps kBackwardAvx512Bf16 = make_backward_ops<Avx512Bf16>();

}  // namespace lace::cpu
