#pragma once

#include "kernels/elementwise/elementwise.h"

namespace lace::cuda {

// For GPUs of compute capability 8.0 and newer; compute is bfloat16 or float16. All functions
// enqueue on context.stream and return; their workspace comes from context.allocate, in the order
// of the stream. Nothing waits for the GPU or copies, so that a CUDA graph can capture them.
extern const ElementwiseKernels kElementwise;

}  // namespace lace::cuda
