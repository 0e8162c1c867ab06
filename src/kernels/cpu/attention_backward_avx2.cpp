#include "kernels/cpu/attention_backward_tile.h"
#include "kernels/cpu/simd_avx2.h"

namespace lace::cpu {

constinit const BackwardOps kBackwardAvx2 = make_backward_ops<Avx2>();

}  // namespace lace::cpu
