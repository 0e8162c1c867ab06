#include "core/work_pool.h"

#include <chrono>
#include <utility>

#include "lace/error.h"

namespace lace {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

// Longer than what a training step does between two runs, and than it takes to wake a thread.
constexpr microseconds kPatience{200};
// A thread that looks at the clock in a loop and misses this much has lost its core meanwhile.
constexpr microseconds kLostCore{100};
// For how long the machine counts as busy after that.
constexpr microseconds kBusyFor{20'000};

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Until when this thread takes its core for one that others want.
thread_local Clock::time_point busy_until;

// Spins until done(), or until patience is at an end (false): at once on a busy machine.
template <typename Done>
bool spin(Done done) {
  constexpr int kLooks = 16;  // between two looks at the clock
  const Clock::time_point start = Clock::now();
  for (Clock::time_point last = start;;) {
    for (int look = 0; look < kLooks; ++look) {
      if (done()) return true;
      relax();
    }
    const Clock::time_point now = Clock::now();
    if (now - last > kLostCore) busy_until = now + kBusyFor;
    if (now - start > kPatience || now < busy_until) return done();
    last = now;
  }
}

}  // namespace

WorkPool::WorkPool(int num_threads, const std::function<void()>& on_start) {
  LACE_CHECK(num_threads >= 1 && num_threads <= 1024, "[threads] must be from 1 to 1024, got ",
             num_threads);
  for (int thread = 1; thread < num_threads; ++thread) {
    workers_.emplace_back([this, on_start] {
      if (on_start) on_start();
      work();
    });
  }
}

WorkPool::~WorkPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_.store(true);
  }
  state_.fetch_add(State::kRunOne);  // ends the spinning of threads that wait for a run
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void WorkPool::run(FunctionRef<void(int thread)> body) const {
  if (workers_.empty() || running_.exchange(true)) return body(0);
  body_ = &body;
  state_.store((State::run(state_.load()) + 1) * State::kRunOne | State::kOpen);
  if (sleeping_.load() > 0) {
    // Who counts as sleeping either waits by now or will see the new state before it does.
    { std::lock_guard lock(mutex_); }
    wake_.notify_all();
  }
  call(body, 0);
  state_.fetch_and(~State::kOpen);
  wait_for_joined();
  const std::exception_ptr error = std::exchange(error_, nullptr);
  running_.store(false);
  if (error) std::rethrow_exception(error);
}

void WorkPool::call(const Body& body, int thread) const {
  try {
    body(thread);
  } catch (...) {
    std::lock_guard lock(mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

// A caller that sleeps leaves its core to a thread that waits for one with a task in its hands.
void WorkPool::wait_for_joined() const {
  const auto all_done = [this] { return State::active(state_.load()) == 0; };
  if (spin(all_done)) return;
  std::unique_lock lock(mutex_);
  caller_sleeps_.store(true);
  finished_.wait(lock, all_done);
  caller_sleeps_.store(false);
}

void WorkPool::work() {
  uint64_t last_run = 0;
  while (true) {
    const bool another = spin([&] { return State::run(state_.load()) != last_run; });
    if (!another) sleep(last_run);
    if (stopping_.load()) return;
    join(last_run);
  }
}

void WorkPool::sleep(uint64_t last_run) {
  std::unique_lock lock(mutex_);
  sleeping_.fetch_add(1);
  wake_.wait(lock, [&] { return stopping_.load() || State::run(state_.load()) != last_run; });
  sleeping_.fetch_sub(1);
}

void WorkPool::join(uint64_t& last_run) {
  uint64_t state = state_.load();
  do {
    last_run = State::run(state);
    if (!State::open(state)) return;
  } while (!state_.compare_exchange_weak(state, state + State::kActiveOne + State::kJoinedOne));
  call(*body_, State::joined(state) + 1);
  state = state_.fetch_sub(State::kActiveOne) - State::kActiveOne;
  if (!State::open(state) && State::active(state) == 0 && caller_sleeps_.load()) {
    { std::lock_guard lock(mutex_); }
    finished_.notify_one();
  }
}

}  // namespace lace
