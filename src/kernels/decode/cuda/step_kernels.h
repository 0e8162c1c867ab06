#pragma once

namespace lace::cuda::decode {

struct LoneLayout;
struct StepLayout;

// The step_kernel of step.cuh that a layout asks for.
const void* step_kernel_bf16(const StepLayout& layout);
const void* step_kernel_fp16(const StepLayout& layout);
// That of lone_step.cuh.
const void* lone_step_kernel_bf16(const LoneLayout& layout);
const void* lone_step_kernel_fp16(const LoneLayout& layout);

}  // namespace lace::cuda::decode
