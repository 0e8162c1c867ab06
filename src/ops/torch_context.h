#pragma once

#include <c10/core/Device.h>

#include "core/context.h"

namespace lace::ops {

// An Executor on libtorch's own pool: at::get_num_threads() threads, or the caller's alone where it
// is inside a parallel region of libtorch already.
const Executor& torch_executor();

// A Context on that executor and on libtorch's current stream of `device`, which must be the
// current device, whose workspace comes from libtorch's allocator of that device.
Context make_torch_context(c10::Device device, bool deterministic);

}  // namespace lace::ops
