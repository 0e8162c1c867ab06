#pragma once

#include <c10/core/Device.h>

#include "core/context.h"

namespace lace::ops {

// An Executor on libtorch's own pool: at::get_num_threads() threads, or the caller's alone where it
// is inside a parallel region of libtorch already.
const Executor& torch_executor();

// While one lives, what its thread does runs on a pool of lace's own (core/work_pool.h), of as many
// threads as libtorch had, and libtorch's operations run on the thread that calls them: a region
// of libtorch's pool waits for every thread of it, so one that others keep from its core stops all.
// Two pools never fight over the cores, as long as nobody else opens regions of libtorch's.
// Scopes nest: the outermost counts.
class OwnThreads {
 public:
  OwnThreads();
  ~OwnThreads();
  OwnThreads(const OwnThreads&) = delete;
  OwnThreads& operator=(const OwnThreads&) = delete;

 private:
  bool outermost_;
  int torch_threads_ = 0, mkl_threads_ = 0;  // what libtorch goes back to
};

// While one lives with `on`, contexts that its thread makes are deterministic.
class DeterministicScope {
 public:
  explicit DeterministicScope(bool on);
  ~DeterministicScope();
  DeterministicScope(const DeterministicScope&) = delete;
  DeterministicScope& operator=(const DeterministicScope&) = delete;

 private:
  bool before_;
};

// The pool of the OwnThreads scope that this thread is in, else torch_executor().
const Executor& current_executor();

// A Context, deterministic if asked for here, by a DeterministicScope or of libtorch, on
// current_executor() and on libtorch's current stream of `device`, which must be the
// current device, whose workspace comes from libtorch's allocator of that device.
Context make_torch_context(c10::Device device, bool deterministic);

}  // namespace lace::ops
