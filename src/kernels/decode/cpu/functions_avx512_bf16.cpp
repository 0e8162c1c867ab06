#include "kernels/cpu/simd_avx512.h"
#include "kernels/decode/cpu/functions_impl.h"

namespace lace::cpu {

const DecodeFunctionSet kDecodeAvx512Bf16 = decode_function_set<Avx512Bf16>();

}  // namespace lace::cpu
