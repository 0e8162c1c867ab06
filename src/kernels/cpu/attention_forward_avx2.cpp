#include "kernels/cpu/attention_forward_tile.h"
#include "kernels/cpu/simd_avx2.h"

namespace lace::cpu {

constinit const ForwardOps kForwardAvx2 = make_forward_ops<Avx2>();

}  // namespace lace::cpu
