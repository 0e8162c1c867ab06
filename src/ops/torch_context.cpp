#include "ops/torch_context.h"

#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include <omp.h>

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/Allocator.h>

#include "core/work_pool.h"
#include "ops/device_stream.h"

// Inside libtorch, where it is built with MKL.
extern "C" __attribute__((weak)) int MKL_Set_Num_Threads_Local(int threads);

namespace lace::ops {

namespace {

class TorchExecutor final : public Executor {
 public:
  int num_threads() const override { return at::in_parallel_region() ? 1 : at::get_num_threads(); }

  void run(FunctionRef<void(int thread)> body) const override {
    const int threads = num_threads();
    if (threads == 1) return body(0);
    // One index a thread; where libtorch has fewer threads, one of them takes several in order.
    at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t thread = begin; thread < end; ++thread) body(static_cast<int>(thread));
    });
  }
};

// Sets the threads of libtorch's operations on this thread, not at::set_num_threads' on all.
// Returns what goes back into `mkl`: 0 for no number of this thread's own.
int set_torch_threads(int openmp, int mkl) {
  omp_set_num_threads(openmp);
  return MKL_Set_Num_Threads_Local != nullptr ? MKL_Set_Num_Threads_Local(mkl) : 0;
}

// libtorch's operations run on a pool's thread alone.
void start_pool_thread() {
  at::get_num_threads();  // libtorch's first look sets the thread's number: later ones keep ours
  set_torch_threads(1, 1);
}

// Pools live as long as the process: their threads sleep while there is nothing to do, and a child
// of fork(), which has none of them, does their work itself.
const WorkPool& pool_of(int threads) {
  static std::mutex mutex;
  static auto& pools = *new std::map<int, std::unique_ptr<WorkPool>>;
  const std::lock_guard lock(mutex);
  std::unique_ptr<WorkPool>& pool = pools[threads];
  if (!pool) pool = std::make_unique<WorkPool>(threads, start_pool_thread);
  return *pool;
}

thread_local const WorkPool* scope_pool = nullptr;
thread_local bool scope_deterministic = false;

}  // namespace

const Executor& torch_executor() {
  static const TorchExecutor executor;
  return executor;
}

OwnThreads::OwnThreads() : outermost_(scope_pool == nullptr) {
  if (!outermost_) return;
  scope_pool = &pool_of(torch_executor().num_threads());
  torch_threads_ = at::get_num_threads();
  mkl_threads_ = set_torch_threads(1, 1);
}

OwnThreads::~OwnThreads() {
  if (!outermost_) return;
  set_torch_threads(torch_threads_, mkl_threads_);
  scope_pool = nullptr;
}

DeterministicScope::DeterministicScope(bool on)
    : before_(std::exchange(scope_deterministic, scope_deterministic || on)) {}

DeterministicScope::~DeterministicScope() { scope_deterministic = before_; }

const Executor& current_executor() {
  if (scope_pool != nullptr) return *scope_pool;
  return torch_executor();
}

Context make_torch_context(c10::Device device, bool deterministic) {
  Context context;
  context.executor = &current_executor();
  // As torch.use_deterministic_algorithms asks, warn_only or not: there is a deterministic way.
  context.deterministic =
      deterministic || scope_deterministic || at::globalContext().deterministicAlgorithms();
  context.stream = current_stream(device);
  c10::Allocator* allocator = c10::GetAllocator(device.type());
  context.allocate = [allocator](size_t bytes) {
    auto memory = std::make_shared<c10::DataPtr>(allocator->allocate(bytes));
    return Workspace(memory, static_cast<std::byte*>(memory->get()));
  };
  return context;
}

}  // namespace lace::ops
