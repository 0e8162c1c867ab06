#pragma once

#include "kernels/elementwise/elementwise.h"

namespace lace::cpu {

// Work is cut by shape alone, so results do not depend on the number of threads.
extern const ElementwiseKernels kElementwise;

}  // namespace lace::cpu
