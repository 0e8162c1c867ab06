#include "kernels/cpu/attention_forward_tile.h"
#include "kernels/cpu/simd_avx512.h"

namespace lace::cpu {

constinit const ForwardOps kForwardAvx512Bf16 = make_forward_ops<Avx512Bf16>();

}  // namespace lace::cpu
