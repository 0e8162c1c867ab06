#include "kernels/decode/cuda/store.h"
#include "kernels/decode/cuda/store_kernel.cuh"
#include "kernels/elementwise/cuda/launch.h"

namespace lace::cuda::decode {

void store(const Context& context, const DecodeShape& shape, const GpuDecodeStore& args) {
  if (args.count == 0) return;
  const auto blocks = static_cast<unsigned>(elementwise::cover(args.count, kWarps));
  elementwise::with_element(shape.compute, [&](auto element) {
    store_kernel<decltype(element)><<<blocks, kThreads, 0, elementwise::stream_of(context)>>>(
        args, static_cast<int>(shape.qk_dim), static_cast<int>(shape.v_dim), row_bytes(shape));
  });
  LACE_CUDA(cudaGetLastError());
}

}  // namespace lace::cuda::decode
