#include "kernels/cpu/attention_forward_tile.h"
#include "kernels/cpu/simd_portable.h"

namespace lace::cpu {

constinit const ForwardOps kForwardPortable = make_forward_ops<Portable>();

}  // namespace lace::cpu
