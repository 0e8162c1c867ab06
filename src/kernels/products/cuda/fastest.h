#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include <cuda_runtime_api.h>

#include "lace/error.h"

#include "core/context.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/timer.h"

namespace lace::cuda::products {

// Work that was recorded into a graph, `calls` times one after the other.
class Recording {
 public:
  // work(context) enqueues the work on the context's stream. It is done once, with `context`'s own,
  // for the memory that it asks for: that is what all recorded calls get.
  template <typename Work>
  Recording(const Context& context, int calls, const Work& work) {
    Context done = context;
    done.allocate = [&](size_t bytes) { return workspaces_.emplace_back(context.allocate(bytes)); };
    work(done);
    cudaStream_t stream = nullptr;
    LACE_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    const std::unique_ptr<CUstream_st, decltype(&cudaStreamDestroy)> kept(stream,
                                                                          &cudaStreamDestroy);
    Context recorded = context;
    recorded.stream = stream;
    size_t next = 0;
    recorded.allocate = [&](size_t) { return workspaces_.at(next++); };
    LACE_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    cudaGraph_t graph = nullptr;
    try {
      for (int call = 0; call < calls; ++call) {
        next = 0;
        work(recorded);
      }
    } catch (...) {
      cudaStreamEndCapture(stream, &graph);
      if (graph != nullptr) cudaGraphDestroy(graph);
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
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  LACE_CUDA(cudaStreamIsCapturing(stream, &capture));
  LACE_CHECK(capture == cudaStreamCaptureStatusNone,
             "[products] a CUDA graph is being captured, and which way is the fastest is not known "
             "yet: run the same call, of the same shapes, once before the capture");
  constexpr int kRounds = 3, kCalls = 6;
  std::vector<Recording> recordings;
  for (size_t way = 0; way < count; ++way) {
    run(way, context);  // what only a first call does, such as finding the fastest way itself
    recordings.emplace_back(context, kCalls, [&](const Context& its_own) { run(way, its_own); });
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
