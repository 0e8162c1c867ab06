#pragma once

#include "kernels/kernel.h"

namespace lace::cuda {

// Hopper GPUs: TMA, warpgroup products, one persistent launch a direction.
extern const Kernel kSm90;
// The tensor cores of sm_80 and newer: every plan, any strides.
extern const Kernel kPortable;

}  // namespace lace::cuda
