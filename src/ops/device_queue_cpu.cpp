#include <ATen/ATen.h>

#include "ops/device_queue.h"

namespace lace::ops {

namespace {

class DoneMark final : public DeviceQueue::Mark {
  void wait() override {}
};

class CpuQueue final : public DeviceQueue {
 public:
  std::shared_ptr<void> enter() override { return nullptr; }
  at::Tensor host_bytes(int64_t bytes) override { return at::empty({bytes}, at::kByte); }
  void upload(const at::Tensor& to, const at::Tensor& from) override { to.copy_(from); }
  void beside(FunctionRef<void()> work) override { work(); }
  void join() override {}
  void download(const at::Tensor& to, const at::Tensor& from) override { to.copy_(from); }
  void hold_for_downloads() override {}
  std::unique_ptr<Mark> mark() override { return std::make_unique<DoneMark>(); }
  std::unique_ptr<Mark> mark_downloads() override { return std::make_unique<DoneMark>(); }
  std::unique_ptr<Graph> record(FunctionRef<void()>) override { return nullptr; }
};

}  // namespace

std::unique_ptr<DeviceQueue> make_cpu_queue() { return std::make_unique<CpuQueue>(); }

}  // namespace lace::ops
