#pragma once

#include <cstdint>
#include <type_traits>

namespace lace {

// A borrowed callable, valid while the callable that it was made from lives.
template <typename Signature>
class FunctionRef;

template <typename Result, typename... Args>
class FunctionRef<Result(Args...)> {
 public:
  template <typename F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, FunctionRef>)
      FunctionRef(F&& function)  // NOLINT: implicit by design, as a parameter type
      : object_(const_cast<void*>(static_cast<const void*>(&function))),
        call_([](void* object, Args... args) -> Result {
          return (*static_cast<std::remove_reference_t<F>*>(object))(args...);
        }) {}
  Result operator()(Args... args) const { return call_(object_, args...); }

 private:
  void* object_;
  Result (*call_)(void*, Args...);
};

// Runs one function on several threads at once.
class Executor {
 public:
  virtual ~Executor() = default;

  // The most threads that `run` uses; at least 1.
  virtual int num_threads() const = 0;

  // Calls body(thread) once for each thread in [0, used), used <= num_threads() chosen by the
  // executor (at least 1), and returns when all have returned. The calls may run one after the
  // other, in ascending order of thread: a body must not wait for a body of a higher index.
  // The first exception that a body throws is thrown again here.
  virtual void run(FunctionRef<void(int thread)> body) const = 0;
};

// Runs tasks [0, count) on `executor`, handed out in ascending order from a shared counter, so that
// a task may wait for one of a lower index. task(index, thread).
void run_tasks(const Executor& executor, int64_t count,
               FunctionRef<void(int64_t task, int thread)> task);

}  // namespace lace
