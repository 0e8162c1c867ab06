#include "kernels/cpu/attention_backward_tile.h"
#include "kernels/cpu/simd_avx512.h"

namespace lace::cpu {

constinit const BackwardOps kBackwardAvx512 = make_backward_ops<Avx512>();

}  // namespace lace::cpu
