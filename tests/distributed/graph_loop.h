#pragma once

#include "lace/distributed.h"

namespace lace {

// Captures an all-reduce into a CUDA graph and checks that it adds up at each replay; then prints
// "ready" and replays it without end. On a GPU only.
[[noreturn]] void graph_loop(Group& group);

}  // namespace lace
