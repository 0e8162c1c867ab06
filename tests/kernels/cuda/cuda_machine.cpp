#include "kernels/cuda/cuda_machine.h"

#include "kernels/cuda/cuda_check.h"

namespace lace::test {

std::string no_gpu() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  return status == cudaSuccess && count > 0 ? "" : cudaGetErrorString(status);
}

Workspace device_memory(size_t bytes) {
  void* memory = nullptr;
  LACE_CUDA(cudaMalloc(&memory, bytes));
  return Workspace(static_cast<std::byte*>(memory), [](std::byte* pointer) { cudaFree(pointer); });
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
