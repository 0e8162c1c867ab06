#pragma once

#include "kernels/kernel.h"

namespace lace::ops {

// Tells which kernel runs a call. Where better kernels of the device do not compute `shape`, a
// warning of PyTorch's with their reasons, once for each. With LACE_VERBOSE=1, a line to stderr for
// every shape at its first call. Thread-safe.
void report_kernel(const AttentionShape& shape, const Kernel& kernel);

}  // namespace lace::ops
