#pragma once

namespace lace::cuda::decode {

struct StepLayout;

// The step_kernel of step.cuh that a layout asks for.
const void* step_kernel_bf16(const StepLayout& layout);
const void* step_kernel_fp16(const StepLayout& layout);

}  // namespace lace::cuda::decode
