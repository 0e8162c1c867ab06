#pragma once

#include "kernels/kernel.h"

namespace lace::cuda {

// The tensor cores of sm_80 and newer: every plan, any strides.
extern const Kernel kPortable;

}  // namespace lace::cuda
