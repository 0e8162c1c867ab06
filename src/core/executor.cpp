#include "core/executor.h"

#include <atomic>

namespace lace {

void run_tasks(const Executor& executor, int64_t count,
               FunctionRef<void(int64_t task, int thread)> task) {
  std::atomic<int64_t> next{0};
  executor.run([&](int thread) {
    for (int64_t index = next++; index < count; index = next++) task(index, thread);
  });
}

}  // namespace lace
