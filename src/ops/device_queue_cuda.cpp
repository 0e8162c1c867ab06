#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>

#include "ops/device_queue.h"

namespace lace::ops {

namespace {

class CudaMark final : public DeviceQueue::Mark {
 public:
  explicit CudaMark(const c10::cuda::CUDAStream& stream) { event_.record(stream); }
  void wait() override { event_.synchronize(); }

 private:
  at::cuda::CUDAEvent event_;
};

class CudaGraph final : public DeviceQueue::Graph {
 public:
  CudaGraph(at::cuda::MempoolId_t pool, FunctionRef<void()> work) {
    // What the allocator keeps for reuse is of no use to the graph, whose memory is its own.
    c10::cuda::CUDACachingAllocator::emptyCache();
    // ThreadLocal: other threads may use the device in the meantime.
    graph_.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
    try {
      work();
    } catch (...) {
      try {
        graph_.capture_end();
      } catch (const c10::Error&) {
        // The first error is the one to tell.
      }
      throw;
    }
    graph_.capture_end();
  }
  void replay() override { graph_.replay(); }

 private:
  at::cuda::CUDAGraph graph_;
};

class CudaQueue final : public DeviceQueue {
 public:
  explicit CudaQueue(c10::Device device)
      : stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index())),
        copies_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index())),
        beside_(c10::cuda::getStreamFromPool(/*isHighPriority=*/true, device.index())),
        downloads_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index())),
        pool_(at::cuda::graph_pool_handle()) {}

  std::shared_ptr<void> enter() override {
    return std::make_shared<c10::cuda::CUDAStreamGuard>(stream_);
  }

  at::Tensor host_bytes(int64_t bytes) override {
    return at::empty({bytes}, at::TensorOptions().dtype(at::kByte).pinned_memory(true));
  }

  void upload(const at::Tensor& to, const at::Tensor& from) override {
    {
      const c10::cuda::CUDAStreamGuard guard(copies_);
      to.copy_(from, /*non_blocking=*/true);
    }
    wait(stream_, copies_);
  }

  void beside(FunctionRef<void()> work) override {
    wait(beside_, stream_);
    const c10::cuda::CUDAStreamGuard guard(beside_);
    work();
  }

  void join() override { wait(stream_, beside_); }

  void download(const at::Tensor& to, const at::Tensor& from) override {
    wait(downloads_, stream_);
    const c10::cuda::CUDAStreamGuard guard(downloads_);
    to.copy_(from, /*non_blocking=*/true);
    downloading_ = true;
  }

  void hold_for_downloads() override {
    if (downloading_) wait(stream_, downloads_);
    downloading_ = false;
  }

  std::unique_ptr<Mark> mark() override { return std::make_unique<CudaMark>(stream_); }

  std::unique_ptr<Mark> mark_downloads() override { return std::make_unique<CudaMark>(downloads_); }

  std::unique_ptr<Graph> record(FunctionRef<void()> work) override {
    return std::make_unique<CudaGraph>(pool_, work);
  }

 private:
  // What enters `later` from now on waits for what has entered `earlier`.
  static void wait(const c10::cuda::CUDAStream& later, const c10::cuda::CUDAStream& earlier) {
    at::cuda::CUDAEvent event;
    event.record(earlier);
    event.block(later);
  }

  c10::cuda::CUDAStream stream_, copies_, beside_, downloads_;
  bool downloading_ = false;  // since the queue was last held
  at::cuda::MempoolId_t pool_;
};

}  // namespace

std::unique_ptr<DeviceQueue> DeviceQueue::make(c10::Device device) {
  if (device.is_cpu()) return make_cpu_queue();
  return std::make_unique<CudaQueue>(device);
}

int64_t take_peak_memory(c10::Device device) {
  if (device.is_cpu()) return 0;
  using c10::CachingAllocator::StatType;
  at::globalContext().lazyInitDevice(at::kCUDA);
  const c10::DeviceIndex index = device.has_index() ? device.index() : c10::cuda::current_device();
  const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(index);
  c10::cuda::CUDACachingAllocator::resetPeakStats(index);
  return stats.allocated_bytes[static_cast<size_t>(StatType::AGGREGATE)].peak;
}

}  // namespace lace::ops
