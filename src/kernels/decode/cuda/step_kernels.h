#pragma once

namespace lace::cuda::decode {

// step_kernel of step.cuh for so many sequences at once: 8, 16, 32 or 64.
const void* step_kernel_bf16(int sequences);
const void* step_kernel_fp16(int sequences);

}  // namespace lace::cuda::decode
