#pragma once

#include "kernels/decode/gpu_decode.h"

namespace lace::cuda::decode {

// As gpu_decode_store.
void store(const Context& context, const DecodeShape& shape, const GpuDecodeStore& args);

}  // namespace lace::cuda::decode
