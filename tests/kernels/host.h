#pragma once

#include <memory>

#include "core/context.h"
#include "core/executor.h"

namespace lace {

// Threads of its own at each run, `num_threads` with the caller's.
std::unique_ptr<Executor> make_thread_pool(int num_threads);

// A Context on `executor` whose workspace comes from the heap.
Context make_host_context(const Executor& executor);

}  // namespace lace
