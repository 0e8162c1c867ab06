#include "ops/torch_context.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/Allocator.h>

#include "ops/device_stream.h"

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

}  // namespace

const Executor& torch_executor() {
  static const TorchExecutor executor;
  return executor;
}

Context make_torch_context(c10::Device device, bool deterministic) {
  Context context;
  context.executor = &torch_executor();
  // As torch.use_deterministic_algorithms asks, warn_only or not: there is a deterministic way.
  context.deterministic = deterministic || at::globalContext().deterministicAlgorithms();
  context.stream = current_stream(device);
  c10::Allocator* allocator = c10::GetAllocator(device.type());
  context.allocate = [allocator](size_t bytes) {
    auto memory = std::make_shared<c10::DataPtr>(allocator->allocate(bytes));
    return Workspace(memory, static_cast<std::byte*>(memory->get()));
  };
  return context;
}

}  // namespace lace::ops
