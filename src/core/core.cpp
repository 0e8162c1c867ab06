#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "lace/error.h"

#include "core/context.h"
#include "core/dtype.h"
#include "core/executor.h"

namespace lace {

std::string_view name(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return "float64";
    case DType::kFloat32:
      return "float32";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat16:
      return "float16";
  }
  return "unknown";
}

namespace {

class ThreadPool final : public Executor {
 public:
  explicit ThreadPool(int num_threads) {
    for (int thread = 1; thread < num_threads; ++thread) {
      workers_.emplace_back([this, thread] { work(thread); });
    }
  }

  ~ThreadPool() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  int num_threads() const override { return static_cast<int>(workers_.size()) + 1; }

  void run(FunctionRef<void(int thread)> body) const override {
    std::lock_guard one_at_a_time(run_mutex_);
    {
      std::lock_guard lock(mutex_);
      body_ = &body;
      pending_ = static_cast<int>(workers_.size());
      error_ = nullptr;
      ++generation_;
    }
    wake_.notify_all();
    call(body, 0);
    std::unique_lock lock(mutex_);
    finished_.wait(lock, [this] { return pending_ == 0; });
    body_ = nullptr;
    if (error_) std::rethrow_exception(error_);
  }

 private:
  using Body = FunctionRef<void(int thread)>;

  void call(const Body& body, int thread) const {
    try {
      body(thread);
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }

  void work(int thread) {
    int64_t seen = 0;
    while (true) {
      const Body* body = nullptr;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return stopping_ || generation_ != seen; });
        if (stopping_) return;
        seen = generation_;
        body = body_;
      }
      call(*body, thread);
      std::lock_guard lock(mutex_);
      if (--pending_ == 0) finished_.notify_one();
    }
  }

  std::vector<std::thread> workers_;
  mutable std::mutex run_mutex_;  // held for the length of a run
  mutable std::mutex mutex_;      // guards what follows
  mutable std::condition_variable wake_, finished_;
  mutable const Body* body_ = nullptr;
  mutable int64_t generation_ = 0;
  mutable int pending_ = 0;
  mutable std::exception_ptr error_;
  bool stopping_ = false;
};

}  // namespace

std::unique_ptr<Executor> make_thread_pool(int num_threads) {
  LACE_CHECK(num_threads >= 1 && num_threads <= 1024, "[threads] must be from 1 to 1024, got ",
             num_threads);
  return std::make_unique<ThreadPool>(num_threads);
}

void run_tasks(const Executor& executor, int64_t count,
               FunctionRef<void(int64_t task, int thread)> task) {
  std::atomic<int64_t> next{0};
  executor.run([&](int thread) {
    for (int64_t index = next++; index < count; index = next++) task(index, thread);
  });
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
