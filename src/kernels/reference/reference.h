#pragma once

#include "kernels/kernel.h"

namespace lace::reference {

// The definition of correct: plain loops over Plan::pattern, float64 inside, one rounding at the
// end. Every dtype, shape and plan; time grows with q_len · k_len.
extern const Kernel kKernel;

}  // namespace lace::reference
