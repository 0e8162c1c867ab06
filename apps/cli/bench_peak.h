#pragma once

#include <cstdint>

#include <c10/core/Device.h>

#include "lace/model.h"

#include "core/executor.h"

namespace lace::cli {

// Arithmetic that touches no memory, by the widest instructions of this processor: the ceilings
// that `lace bench` compares with. A multiplication and an addition count as two operations.
//   fp32: fused multiply-add, AVX-512, AVX2 or scalar
//   bf16: vdpbf16ps (fp32 accumulators), AVX-512
enum class Peak { kFp32Fma, kBf16Dot };

// Whether this processor has the instructions.
bool has_peak(Peak peak);

// Runs `steps` steps on each of the executor's threads and returns the operations of all of them.
// Precondition: has_peak(peak).
double run_peak(Peak peak, const Executor& executor, int64_t steps);

// Operations a second that `device` reaches on numbers of `precision`, measured for some
// hundredths of a second: on a CPU as above, the best of a few; on a GPU a bf16 matrix product. 0
// where there is nothing to compare with (fp64).
double measured_peak(c10::Device device, Precision precision);

}  // namespace lace::cli
