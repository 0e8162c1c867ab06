#include "kernels/cpu/attention_forward_tile.h"
#include "kernels/cpu/simd_avx512.h"

namespace lace::cpu {

constinit const ForwardOps kForwardAvx512 = make_forward_ops<Avx512>();

}  // namespace lace::cpu
