#pragma once

#include "core/context.h"

namespace lace::ops {

// An Executor on libtorch's own pool: at::get_num_threads() threads, or the caller's alone where it
// is inside a parallel region of libtorch already.
const Executor& torch_executor();

// A Context on that executor, whose workspace comes from libtorch's CPU allocator.
Context make_torch_context(bool deterministic);

}  // namespace lace::ops
