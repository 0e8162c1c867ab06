#include "kernels/cuda/cuda_machine.h"

#include <algorithm>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cuda/cuda_check.h"

namespace lace::test {

std::string no_gpu() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  return status == cudaSuccess && count > 0 ? "" : cudaGetErrorString(status);
}

namespace {

// What stands behind every allocation: a kernel that writes past the end of one writes there.
constexpr size_t kGuardBytes = 1 << 20;
constexpr int kGuard = 0xa5;

// Waits for the GPU.
void check_guard(const std::byte* guard) {
  std::vector<std::byte> bytes(kGuardBytes);
  if (cudaDeviceSynchronize() != cudaSuccess ||
      cudaMemcpy(bytes.data(), guard, kGuardBytes, cudaMemcpyDeviceToHost) != cudaSuccess) {
    ADD_FAILURE() << "the GPU reports " << cudaGetErrorString(cudaGetLastError());
    return;
  }
  const auto changed = std::find_if(bytes.begin(), bytes.end(), [](std::byte value) {
    return value != static_cast<std::byte>(kGuard);
  });
  EXPECT_TRUE(changed == bytes.end())
      << "something was written " << changed - bytes.begin() << " bytes past an allocation";
}

}  // namespace

Workspace device_memory(size_t bytes) {
  void* memory = nullptr;
  LACE_CUDA(cudaMalloc(&memory, bytes + kGuardBytes));
  std::byte* guard = static_cast<std::byte*>(memory) + bytes;
  LACE_CUDA(cudaMemset(guard, kGuard, kGuardBytes));
  LACE_CUDA(cudaDeviceSynchronize());
  return Workspace(static_cast<std::byte*>(memory), [guard](std::byte* pointer) {
    check_guard(guard);
    cudaFree(pointer);
  });
}

CudaMachine::CudaMachine(bool deterministic) : deterministic_(deterministic) {
  LACE_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
}

CudaMachine::~CudaMachine() { cudaStreamDestroy(stream_); }

Context CudaMachine::context(const Executor& executor) {
  Context context;
  context.executor = &executor;
  context.stream = stream_;
  context.deterministic = deterministic_;
  context.allocate = [stream = stream_](size_t bytes) {
    Workspace memory = device_memory(bytes);
    LACE_CUDA(cudaMemsetAsync(memory.get(), 0xff, bytes, stream));
    return memory;
  };
  return context;
}

Tensor4 CudaMachine::enter(const Tensor& tensor) {
  std::vector<std::byte>& buffer = tensor.buffer();
  Workspace& copy = copies_[&buffer];
  if (!copy) {
    copy = device_memory(buffer.size());
    LACE_CUDA(
        cudaMemcpyAsync(copy.get(), buffer.data(), buffer.size(), cudaMemcpyHostToDevice, stream_));
  }
  Tensor4 view = tensor.view();
  view.data = copy.get() + (static_cast<std::byte*>(view.data) - buffer.data());
  return view;
}

void CudaMachine::leave() {
  LACE_CUDA(cudaStreamSynchronize(stream_));
  for (auto& [buffer, copy] : copies_) {
    LACE_CUDA(cudaMemcpy(buffer->data(), copy.get(), buffer->size(), cudaMemcpyDeviceToHost));
  }
  copies_.clear();
}

}  // namespace lace::test
