#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "core/executor.h"

namespace lace {

// Memory that a kernel borrows for one call: freed when the last copy of the pointer goes.
using Workspace = std::shared_ptr<std::byte>;

// What a kernel may use. The caller keeps `executor` alive during the call.
struct Context {
  const Executor* executor = nullptr;  // CPU kernels: required
  // Allocates `bytes` aligned to 64 bytes, not initialised.
  std::function<Workspace(size_t bytes)> allocate;
  Workspace allocate_floats(int64_t count) const {
    return allocate(static_cast<size_t>(count) * sizeof(float));
  }
  void* stream = nullptr;      // GPU kernels: a cudaStream_t
  bool deterministic = false;  // GPU kernels: bitwise repeatable; CPU kernels always are
};

}  // namespace lace
