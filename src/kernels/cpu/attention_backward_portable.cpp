#include "kernels/cpu/attention_backward_tile.h"
#include "kernels/cpu/simd_portable.h"

namespace lace::cpu {

constinit const BackwardOps kBackwardPortable = make_backward_ops<Portable>();

}  // namespace lace::cpu
