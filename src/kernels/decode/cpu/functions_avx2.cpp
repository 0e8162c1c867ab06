#include "kernels/cpu/simd_avx2.h"
#include "kernels/decode/cpu/functions_impl.h"

namespace lace::cpu {

const DecodeFunctionSet kDecodeAvx2 = decode_function_set<Avx2>();

}  // namespace lace::cpu
