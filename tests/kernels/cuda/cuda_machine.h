#pragma once

#include <map>
#include <string>

#include <cuda_runtime_api.h>

#include "kernels/problem.h"

namespace lace::test {

// Why there is no GPU to test on, or empty.
std::string no_gpu();

// The current GPU, on a stream of its own. Buffers are copied to it and back.
class CudaMachine final : public Machine {
 public:
  explicit CudaMachine(bool deterministic = true);
  ~CudaMachine() override;
  Context context(const Executor& executor) override;
  Tensor4 enter(const Tensor& tensor) override;
  void leave() override;
  cudaStream_t stream() const { return stream_; }

 private:
  bool deterministic_;
  cudaStream_t stream_ = nullptr;
  std::map<std::vector<std::byte>*, Workspace> copies_;
};

// Device memory, freed when the last copy goes; the test fails if by then something was written
// within a megabyte behind it.
Workspace device_memory(size_t bytes);

}  // namespace lace::test
