#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <thread>

namespace lace::cpu {

// Work in phases, each of tasks that any thread may draw: a phase begins when all tasks of the one
// before are done. So a thread waits only for tasks that another has in its hands, whoever of an
// executor's threads comes, and when.
class Phases {
 public:
  static constexpr size_t kBytes = 64;  // of memory that a phase takes, aligned as much

  Phases(void* memory, int64_t count) : words_(static_cast<Word*>(memory)) {
    for (int64_t phase = 0; phase < count; ++phase) new (words_ + phase) Word{};
  }

  // Called by each thread for one phase after the other; returns when the phase is over.
  template <typename Task>
  void run(int64_t phase, int64_t tasks, const Task& task) {
    std::atomic<uint64_t>& word = words_[phase].drawn_and_done;
    if (drawn(word.load(std::memory_order_acquire)) < tasks) {
      for (int64_t index = drawn(word.fetch_add(1, std::memory_order_acq_rel)); index < tasks;) {
        task(index);
        index = drawn(word.fetch_add(kDoneOne + 1, std::memory_order_acq_rel));
      }
    }
    for (int look = 0; done(word.load(std::memory_order_acquire)) < tasks; ++look) {
      // A thread without a core must get one to finish.
      if (look < kLooks) {
        relax();
      } else {
        std::this_thread::yield();
      }
    }
  }

 private:
  struct alignas(kBytes) Word {
    std::atomic<uint64_t> drawn_and_done{0};
  };
  static constexpr uint64_t kDoneOne = uint64_t{1} << 32;
  static constexpr int kLooks = 2000;

  static int64_t drawn(uint64_t word) { return static_cast<int64_t>(word & 0xffffffff); }
  static int64_t done(uint64_t word) { return static_cast<int64_t>(word >> 32); }
  static void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  Word* words_;
};

}  // namespace lace::cpu
