#pragma once

#include <string>

#include "kernels/kernel.h"

namespace lace::ops {

// Tells which kernel runs a call. Where it is not the best one, a warning of PyTorch's with the
// reasons `passed_over` (select_kernel()), once for each. With LACE_VERBOSE=1, a line to stderr for
// every shape at its first call. Thread-safe.
void report_kernel(const AttentionShape& shape, const Kernel& kernel,
                   const std::string& passed_over);

}  // namespace lace::ops
