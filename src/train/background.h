#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace lace::train {

// A thread that does one piece of work at a time beside its owner's.
class Background {
 public:
  Background();
  ~Background();  // waits for the work; what it throws is lost
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  // Waits for the work before, if any, and begins `work`. Throws, instead of beginning, what the
  // work before threw and nobody has been told of.
  void start(std::function<void()> work);

  // Throws what the last work threw, once, if it has ended. Does not wait.
  void check();

  // Waits for the work; then as check().
  void finish();

 private:
  void run();
  void wait(std::unique_lock<std::mutex>& lock);
  void rethrow();  // with mutex_ held

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> work_;  // being done; empty if there is none
  std::exception_ptr error_;
  bool ended_ = false;
  std::thread thread_;  // last: uses the others
};

}  // namespace lace::train
