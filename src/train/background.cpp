#include "train/background.h"

#include <utility>

namespace lace::train {

Background::Background() : thread_([this] { run(); }) {}

Background::~Background() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Background::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return ended_ || work_; });
    if (!work_) return;
    std::exception_ptr error;
    lock.unlock();
    try {
      work_();
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    work_ = nullptr;  // and what it held, before anybody hears of its end
    error_ = error;
    changed_.notify_all();
  }
}

void Background::wait(std::unique_lock<std::mutex>& lock) {
  changed_.wait(lock, [&] { return !work_; });
}

void Background::rethrow() {
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Background::start(std::function<void()> work) {
  {
    std::unique_lock lock(mutex_);
    wait(lock);
    rethrow();
    work_ = std::move(work);
  }
  changed_.notify_all();
}

void Background::check() {
  const std::lock_guard lock(mutex_);
  if (!work_) rethrow();
}

void Background::finish() {
  std::unique_lock lock(mutex_);
  wait(lock);
  rethrow();
}

}  // namespace lace::train
