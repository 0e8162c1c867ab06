#include "kernels/cpu/simd_portable.h"
#include "kernels/decode/cpu/functions_impl.h"

namespace lace::cpu {

const DecodeFunctionSet kDecodePortable = decode_function_set<Portable>();

}  // namespace lace::cpu
