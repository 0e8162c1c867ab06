#include <algorithm>

#include <cuda_runtime_api.h>

#include <torch/csrc/autograd/profiler_kineto.h>

#include "lace/error.h"

#include "ops/device_profile.h"

namespace lace::ops {

namespace {

namespace profiler = torch::autograd::profiler;
namespace impl = torch::profiler::impl;

void wait_for_device() {
  const cudaError_t status = cudaDeviceSynchronize();
  LACE_CHECK(status == cudaSuccess, "[profile] CUDA: ", cudaGetErrorString(status));
}

}  // namespace

std::vector<DeviceSpan> profile_device(FunctionRef<void()> work) {
  const impl::ProfilerConfig config(impl::ProfilerState::KINETO);
  const std::set<impl::ActivityType> activities = {impl::ActivityType::CUDA};
  wait_for_device();
  profiler::prepareProfiler(config, activities);
  profiler::enableProfiler(config, activities);
  try {
    work();
    wait_for_device();
  } catch (...) {
    profiler::disableProfiler();
    throw;
  }
  const std::unique_ptr<profiler::ProfilerResult> result = profiler::disableProfiler();
  std::vector<DeviceSpan> spans;
  for (const profiler::KinetoEvent& event : result->events()) {
    if (event.deviceType() != c10::DeviceType::CUDA) continue;
    spans.push_back(
        {event.name(), static_cast<int64_t>(event.startNs()), static_cast<int64_t>(event.endNs())});
  }
  std::sort(spans.begin(), spans.end(),
            [](const DeviceSpan& a, const DeviceSpan& b) { return a.begin_ns < b.begin_ns; });
  return spans;
}

}  // namespace lace::ops
