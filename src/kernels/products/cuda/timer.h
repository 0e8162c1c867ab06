#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include <cuda_runtime_api.h>

#include "core/context.h"
#include "kernels/cuda/cuda_check.h"

namespace lace::cuda::products {

// Milliseconds between two places of a stream.
class Timer {
 public:
  explicit Timer(cudaStream_t stream) : stream_(stream) {
    LACE_CUDA(cudaEventCreate(&begin_));
    LACE_CUDA(cudaEventCreate(&end_));
  }
  ~Timer() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  template <typename Work>
  float ms(Work work) const {
    LACE_CUDA(cudaEventRecord(begin_, stream_));
    work();
    LACE_CUDA(cudaEventRecord(end_, stream_));
    LACE_CUDA(cudaEventSynchronize(end_));
    float elapsed = 0;
    LACE_CUDA(cudaEventElapsedTime(&elapsed, begin_, end_));
    return elapsed;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

// Work that was recorded into a graph without being done.
class Recording {
 public:
  // record(context): enqueues the work on the context's stream, which is not `context`'s own.
  template <typename Record>
  Recording(const Context& context, const Record& record) {
    cudaStream_t stream = nullptr;
    LACE_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    const std::unique_ptr<CUstream_st, decltype(&cudaStreamDestroy)> kept(stream,
                                                                          &cudaStreamDestroy);
    Context recorded = context;
    recorded.stream = stream;
    recorded.allocate = [&](size_t bytes) {
      return workspaces_.emplace_back(context.allocate(bytes));
    };
    // Relaxed: a workspace may have to be allocated.
    LACE_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    cudaGraph_t graph = nullptr;
    try {
      record(recorded);
    } catch (...) {
      cudaStreamEndCapture(stream, &graph);
      cudaGraphDestroy(graph);
      throw;
    }
    LACE_CUDA(cudaStreamEndCapture(stream, &graph));
    const std::unique_ptr<CUgraph_st, decltype(&cudaGraphDestroy)> kept_graph(graph,
                                                                              &cudaGraphDestroy);
    LACE_CUDA(cudaGraphInstantiate(&work_, graph, 0));
  }
  ~Recording() {
    if (work_ != nullptr) cudaGraphExecDestroy(work_);
  }
  Recording(Recording&& other) noexcept
      : workspaces_(std::move(other.workspaces_)), work_(std::exchange(other.work_, nullptr)) {}
  Recording& operator=(Recording&&) = delete;

  void replay(cudaStream_t stream) const { LACE_CUDA(cudaGraphLaunch(work_, stream)); }

 private:
  std::vector<Workspace> workspaces_;  // that the work uses
  cudaGraphExec_t work_ = nullptr;
};

// Which of `count` ways to do the same is the fastest where a graph does it, as in a training step:
// run(way, context) enqueues it. What some ways do besides their kernel, such as clearing a
// counter, costs more there. Waits for the GPU.
template <typename Run>
size_t fastest(size_t count, const Context& context, const Run& run) {
  const auto stream = static_cast<cudaStream_t>(context.stream);
  constexpr int kRounds = 3, kCalls = 6;
  std::vector<Recording> recordings;
  for (size_t way = 0; way < count; ++way) {
    run(way, context);  // makes what a recording cannot
    recordings.emplace_back(context, [&](const Context& recorded) {
      for (int call = 0; call < kCalls; ++call) run(way, recorded);
    });
  }
  const Timer timer(stream);
  std::vector<float> best(count, INFINITY);
  for (int round = 0; round < kRounds; ++round) {
    for (size_t way = 0; way < count; ++way) {
      best[way] = std::min(best[way], timer.ms([&] { recordings[way].replay(stream); }));
    }
  }
  return static_cast<size_t>(std::min_element(best.begin(), best.end()) - best.begin());
}

}  // namespace lace::cuda::products
