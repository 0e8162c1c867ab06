#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <type_traits>
#include <typeindex>
#include <utility>
#include <vector>

#include <cuda_runtime_api.h>

#include "plan/plan.h"

namespace lace::cuda {

// A mask as mask_bits.h has it, from DevicePlan::words[word_begin] on.
struct DeviceMask {
  int32_t owners, others, words_per_owner, word_begin;
};

// A Plan's arrays on one GPU. Pointers are device pointers, valid while the UploadedPlan lives.
struct DevicePlan {
  const Run* runs = nullptr;
  const int32_t* mask_ids = nullptr;
  const DeviceMask* masks = nullptr;
  const uint64_t* words = nullptr;
  const int64_t* offsets = nullptr;
  const int32_t* head_group = nullptr;
};

// Collects arrays that shall lie in one device allocation.
class DevicePacker {
 public:
  // Notes to copy `count` elements from `data`, which stays as it is until upload(), and to point
  // `*device` at the copy, aligned to 16 bytes.
  template <typename T>
  void add(const T* data, size_t count, const T** device) {
    static_assert(std::is_trivially_copyable_v<T>);
    parts_.push_back({data, count * sizeof(T), reinterpret_cast<const void**>(device)});
  }
  template <typename T>
  void add(const std::vector<T>& values, const T** device) {
    add(values.data(), values.size(), device);
  }

 private:
  friend class DeviceMemory;
  struct Part {
    const void* data;
    size_t bytes;
    const void** device;
  };
  std::vector<Part> parts_;
};

// One device allocation, filled asynchronously from pinned memory.
class DeviceMemory {
 public:
  DeviceMemory(const DevicePacker& packer, cudaStream_t stream);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  // Makes work that `stream` gets from now on wait for the copy.
  void wait(cudaStream_t stream) const;
  size_t bytes() const { return bytes_; }

 private:
  void free();
  size_t bytes_ = 0;
  void* device_ = nullptr;
  void* pinned_ = nullptr;
  cudaEvent_t copied_ = nullptr;
  cudaStream_t stream_ = nullptr;
  mutable std::atomic<bool> done_ = false;
};

// A Plan on one GPU, with the tables that kernels made for it.
class UploadedPlan {
 public:
  UploadedPlan(const Plan& plan, cudaStream_t stream);

  const DevicePlan& view() const { return view_; }
  // Device memory held, tables included.
  size_t bytes() const;

  // A kernel's own table for this plan and device: a struct T with device pointers in it, made at
  // the first call with this T and `variant` by make(T& table, DevicePacker& packer): arrays go
  // through packer.add(array, &table.pointer) and must live until this call ends. Uploaded as the
  // plan is. Valid as long as this object.
  // Throws lace::Error if `stream` is being captured and the table is not there yet.
  using Variant = std::array<int64_t, 3>;
  template <typename T, typename Make>
  const T& table(const Variant& variant, cudaStream_t stream, const Make& make) const {
    return *static_cast<const T*>(
        table(std::type_index(typeid(T)), variant, stream, [&](DevicePacker& packer) {
          auto made = std::make_shared<T>();
          make(*made, packer);
          return std::static_pointer_cast<void>(std::move(made));
        }));
  }

 private:
  struct Table {
    std::shared_ptr<void> object;
    std::unique_ptr<DeviceMemory> memory;
  };
  using MakeTable = std::function<std::shared_ptr<void>(DevicePacker&)>;
  const void* table(std::type_index type, const Variant& variant, cudaStream_t stream,
                    const MakeTable& make) const;

  friend std::shared_ptr<const UploadedPlan> upload(const Plan& plan, cudaStream_t stream);
  DevicePlan view_;
  std::unique_ptr<DeviceMemory> memory_;
  mutable std::mutex mutex_;
  mutable std::map<std::pair<std::type_index, Variant>, Table> tables_;
};

// The plan on the current device: packed and uploaded at the first call, asynchronously on
// `stream`, on which it can be read from then on; kept as long as the Plan lives, and as long as
// the graph, if `stream` is being captured into one. Thread-safe.
// Throws lace::Error if `stream` is being captured and the plan is not there yet.
std::shared_ptr<const UploadedPlan> upload(const Plan& plan, cudaStream_t stream);

}  // namespace lace::cuda
