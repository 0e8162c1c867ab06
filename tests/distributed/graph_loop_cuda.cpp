#include <iostream>

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "lace/error.h"

#include "distributed/graph_loop.h"

namespace lace {

void graph_loop(Group& group) {
  const c10::cuda::CUDAGuard device(group.device());
  const c10::cuda::CUDAStreamGuard stream(c10::cuda::getStreamFromPool());
  const at::Tensor sum = at::ones({100'003}, at::TensorOptions(group.device()));
  group.all_reduce_sum(sum);  // NCCL connects before the capture
  sum.fill_(1);
  stream.current_stream().synchronize();
  at::cuda::CUDAGraph graph;
  graph.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
  group.all_reduce_sum(sum.narrow(0, 3, 100'000));
  graph.capture_end();
  double expected = 1;
  for (int i = 0;; ++i) {
    graph.replay();
    stream.current_stream().synchronize();
    group.check();
    if (i < 3) {
      expected *= group.size();
      const at::Tensor here = sum.cpu();
      LACE_CHECK(here[2].item<double>() == 1 && here[100'003 - 1].item<double>() == expected,
                 "a wrong sum");
    }
    if (i == 3) std::cout << "ready" << std::endl;
    if (i >= 3) sum.fill_(1);
  }
}

}  // namespace lace
