#include "kernels/host.h"

#include <cstdlib>
#include <exception>
#include <new>
#include <thread>
#include <vector>

namespace lace {
namespace {

class Threads final : public Executor {
 public:
  explicit Threads(int num_threads) : num_threads_(num_threads) {}

  int num_threads() const override { return num_threads_; }

  void run(FunctionRef<void(int thread)> body) const override {
    std::vector<std::exception_ptr> errors(static_cast<size_t>(num_threads_));
    const auto call = [&](int thread) {
      try {
        body(thread);
      } catch (...) {
        errors[static_cast<size_t>(thread)] = std::current_exception();
      }
    };
    std::vector<std::thread> others;
    for (int thread = 1; thread < num_threads_; ++thread) others.emplace_back(call, thread);
    call(0);
    for (std::thread& other : others) other.join();
    for (const std::exception_ptr& error : errors) {
      if (error) std::rethrow_exception(error);
    }
  }

 private:
  int num_threads_;
};

}  // namespace

std::unique_ptr<Executor> make_thread_pool(int num_threads) {
  return std::make_unique<Threads>(num_threads);
}

Context make_host_context(const Executor& executor) {
  Context context;
  context.executor = &executor;
  context.allocate = [](size_t bytes) {
    constexpr size_t kAlignment = 64;
    const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    void* memory = std::aligned_alloc(kAlignment, rounded == 0 ? kAlignment : rounded);
    if (memory == nullptr) throw std::bad_alloc();
    return Workspace(static_cast<std::byte*>(memory), [](std::byte* p) { std::free(p); });
  };
  return context;
}

}  // namespace lace
